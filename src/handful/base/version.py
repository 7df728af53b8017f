"""The version of handful: read by the build, written into plans and stores."""

__version__ = "0.2.0"
