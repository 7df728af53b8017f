"""History to pictures, pages and lines on the terminal: this folder draws what it is given."""
