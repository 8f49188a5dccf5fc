// Loads 3Dmol.js into a page that does not have it, from `packed`: the script, gzipped, in base64.
// py3Dmol's scripts wait for `$3Dmolpromise`, and would otherwise fetch 3Dmol.js from the network.
function load3Dmol(packed) {
  if (window.$3Dmol) window.$3Dmolpromise = window.$3Dmolpromise || Promise.resolve();
  else window.$3Dmolpromise = window.loading3Dmol = window.loading3Dmol || unpack();

  async function unpack() {
    const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    // Names that would make 3Dmol.js register itself with a loader of modules are hidden from it.
    const source = await new Response(stream).text();
    script.textContent = `(function (exports, module, define) {${source}\n}).call(window);`;
    document.head.append(script);
  }
}
