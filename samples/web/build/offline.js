// Part of the build: writes the service worker with the list of files that the page begins with.

import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";

const SOURCE = new URL("../src/service-worker.js", import.meta.url);

/**
 * @param {string | undefined} folder Of the bundle: another bundle is another version of the site.
 * @returns {import("vite").Plugin}
 */
export function offline(folder) {
  return {
    name: "offline",
    // After the plugin that writes the page.
    enforce: "post",
    apply: "build",
    async generateBundle(_, files) {
      const names = Object.keys(files).sort();
      // What is large is kept when it is first read: which of the runtimes that is depends on the browser.
      const shell = ["./", ...names.filter((name) => /\.(js|css|svg)$/.test(name))];
      const digest = createHash("sha256").update(JSON.stringify(names));
      const source = await readFile(SOURCE, "utf8");
      // Names of assets have a hash of what is in them; the page itself and the manifest do not.
      digest.update(files["index.html"].source).update(await readFile(join(folder, "manifest.json"))).update(source);
      const constants = { VERSION: digest.digest("hex").slice(0, 16), SHELL: shell };
      const lines = Object.entries(constants).map(([name, value]) => `const ${name} = ${JSON.stringify(value)};\n`);
      this.emitFile({ type: "asset", fileName: "service-worker.js", source: lines.join("") + source });
    },
  };
}
