// Search runs in a worker, which browsers refuse to pages that are opened as files: there it runs in
// a hidden frame instead. (Material's offline plugin would load such a script from elsewhere.)
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.inside = frame.contentWindow;
      const say = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      const load = (source) => new Promise((done) => {
        const script = this.inside.document.createElement("script");
        script.src = source;
        script.onload = done;
        this.inside.document.body.append(script);
      });
      this.inside.postMessage = say;
      this.inside.importScripts = (...sources) => Promise.all(sources.map(load));
      this.ready = load(url);
    }
    postMessage(data) {
      this.ready.then(() => this.inside.dispatchEvent(new MessageEvent("message", { data })));
    }
    terminate() {}
  };
  window.Worker = window.IFrameWorker;
}
