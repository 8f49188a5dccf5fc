// py3Dmol's scripts wait for this promise, and would otherwise fetch 3Dmol.js from the network. 3Dmol-min.js has been loaded
// just before, so there is nothing to wait for, but drawing every molecule at once would hold up the page: each is drawn when
// it comes near the window.
var $3Dmolpromise = {
  then: function (draw) {
    var script = document.currentScript;
    var stage = script && script.parentNode.querySelector('[id^="3dmolviewer_"]');
    if (!stage || !("IntersectionObserver" in window)) return Promise.resolve().then(draw);
    return new Promise(function (resolve) {
      new IntersectionObserver(
        function (entries, observer) {
          if (!entries.some((entry) => entry.isIntersecting)) return;
          observer.disconnect();
          resolve(draw());
        },
        { rootMargin: "200px" },
      ).observe(stage);
    });
  },
};
