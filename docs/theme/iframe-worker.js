// Search of a page that is opened from a file, where a browser starts no Worker: its script runs in a frame instead.
if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      frame.title = "search"
      document.documentElement.append(frame)
      this.inside = frame.contentWindow
      this.inside.answer = data => this.dispatchEvent(new MessageEvent("message", { data }))
      this.inside.document.write(
        `<script>self.postMessage = data => answer(data); self.importScripts = () => Promise.resolve()</script>` +
        `<script src="${url}"></script>`
      )
      this.loaded = new Promise(done => (frame.onload = done))
      this.inside.document.close()
    }
    async postMessage(data) {
      await this.loaded
      this.inside.dispatchEvent(new MessageEvent("message", { data }))
    }
  }
}
