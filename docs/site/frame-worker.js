// Browsers start no worker from a file. Where the site is read from a folder, its search runs in a hidden frame instead.
if (location.protocol === "file:") {
  // Gives messages in their order, and none before the other side listens: on a slow machine that takes a while.
  const channel = (listener) => {
    const waiting = [];
    const deliver = () => {
      const there = listener();
      if (there?.onmessage) waiting.splice(0).forEach((data) => there.onmessage({ data }));
      else if (waiting.length) setTimeout(deliver, 20);
    };
    return (data) => {
      waiting.push(data);
      setTimeout(deliver);
    };
  };

  window.Worker = class {
    constructor(url) {
      this.postMessage = channel(() => this.inside);
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.srcdoc = "<!doctype html><title>search</title>";
      this.frame.addEventListener("load", () => this.start(new URL(url, document.baseURI).href), { once: true });
      document.body.append(this.frame);
    }

    start(url) {
      const inside = this.frame.contentWindow;
      inside.postMessage = channel(() => this);
      const script = inside.document.createElement("script");
      script.src = url;
      script.addEventListener("error", (event) => this.onerror?.(event));
      script.addEventListener("load", () => (this.inside = inside));
      inside.document.body.append(script);
    }

    terminate() {
      this.frame.remove();
    }
  };
}
