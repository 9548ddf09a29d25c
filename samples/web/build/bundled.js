// Part of the build: puts a bundle into the site.

import { copyFile, mkdir, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { AdapterBundle } from "adapter-export";
import { folderSource } from "adapter-export/node";

/**
 * Refuses a bundle that the page could not run, and copies the files that its manifest lists into `bundle/`. The page
 * gets the size of the graph and its weights as MODEL_BYTES.
 *
 * @param {string | undefined} folder
 * @returns {import("vite").Plugin}
 */
export function bundled(folder) {
  let files = [];
  let output = "";
  return {
    name: "bundled",
    apply: "build",
    async config() {
      if (!folder) throw new Error("expected the folder of a bundle: BUNDLE=path/to/bundle npm run build");
      const bundle = await AdapterBundle.open(folderSource(folder));
      const { task, files: listed } = bundle.manifest;
      if (task !== "text-classification") throw new Error(`${folder}: expected task text-classification, found ${task}`);
      if (!bundle.has("tokenizer.json")) throw new Error(`${folder}: expected tokenizer.json, found none`);
      files = ["manifest.json", ...Object.keys(listed)];
      const model = files.filter((file) => file.startsWith("model.onnx"));
      const sizes = await Promise.all(model.map(async (file) => (await stat(join(folder, file))).size));
      return { define: { MODEL_BYTES: String(sizes.reduce((sum, size) => sum + size, 0)) } };
    },
    configResolved(config) {
      output = join(config.root, config.build.outDir, "bundle");
    },
    async writeBundle() {
      for (const file of files) {
        await mkdir(dirname(join(output, file)), { recursive: true });
        await copyFile(join(folder, file), join(output, file));
      }
    },
  };
}
