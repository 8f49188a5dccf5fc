// py3Dmol's scripts wait for this promise, and would otherwise fetch 3Dmol.js from the network. 3Dmol-min.js has been loaded
// just before, so there is nothing to wait for, but drawing every molecule at once would hold up the page: each is drawn when
// it comes near the window, and moves only while it is there. Without a GPU a single one keeps a core busy.
var $3Dmolpromise = {
  then: function (draw) {
    var script = document.currentScript;
    var stage = script && script.parentNode.querySelector('[id^="3dmolviewer_"]');
    if (!stage || !("IntersectionObserver" in window)) return Promise.resolve().then(draw);
    return new Promise(function (resolve) {
      var drawn = false;
      new IntersectionObserver(
        function (entries) {
          var near = entries[entries.length - 1].isIntersecting;
          if (near && !drawn) {
            drawn = true;
            resolve(draw());
          } else if (drawn) {
            [window[stage.id.replace("3dmolviewer_", "viewer_")]].flat(2).forEach(function (viewer) {
              if (viewer) near ? viewer.resumeAnimate() : viewer.pauseAnimate();
            });
          }
        },
        { rootMargin: "200px" },
      ).observe(stage);
    });
  },
};
