import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "node:test";
import { fetchSource } from "adapter-export";
import { folderSource } from "adapter-export/node";

/**
 * @param {Response} response
 * @param {string[]} [asked]
 */
const answering = (response, asked = []) => /** @type {typeof fetch} */ (async (address) => {
  asked.push(String(address));
  return response;
});

test("files of a server, with progress", async () => {
  /** @type {string[]} */
  const asked = [];
  /** @type {unknown[]} */
  const seen = [];
  const body = new ReadableStream({
    start(stream) {
      for (const part of [Uint8Array.of(1, 2), Uint8Array.of(3)]) stream.enqueue(part);
      stream.close();
    },
  });
  const fetcher = answering(new Response(body, { headers: { "content-length": "3" } }), asked);
  const read = fetchSource("https://example.org/some/bundle", fetcher);
  const bytes = await read("adapters/a b.onnx_adapter", { limit: 3, onProgress: (...values) => seen.push(values) });
  assert.deepEqual(bytes, Uint8Array.of(1, 2, 3));
  assert.deepEqual(asked, ["https://example.org/some/bundle/adapters/a%20b.onnx_adapter"]);
  assert.deepEqual(seen, [[2, 3], [3, 3]]);
});

test("the size of a compressed answer is not known", async () => {
  /** @type {unknown[]} */
  const seen = [];
  const headers = { "content-length": "2", "content-encoding": "gzip" };
  const read = fetchSource("https://example.org/", answering(new Response("abc", { headers })));
  await read("x", { limit: 3, onProgress: (_, total) => seen.push(total) });
  assert.deepEqual(seen, [undefined]);
});

test("answers that are no file of a bundle", async () => {
  const missing = fetchSource("https://example.org/", answering(new Response("", { status: 404 })));
  await assert.rejects(missing("x", { limit: 9 }), /x: https:\/\/example\.org\/x answers 404/);
  const large = fetchSource("https://example.org/", answering(new Response("12345")));
  await assert.rejects(large("x", { limit: 4 }), /x: expected at most 4 bytes, found more/);
});

test("files of a folder", async () => {
  const folder = await mkdtemp(join(tmpdir(), "adapter-export-"));
  try {
    await writeFile(join(folder, "x"), "abc");
    const read = folderSource(folder);
    assert.deepEqual(await read("x", { limit: 3 }), Uint8Array.of(97, 98, 99));
    await assert.rejects(read("x", { limit: 2 }), /x: expected at most 2 bytes, found 3/);
    await assert.rejects(read("y", { limit: 2 }), /y: cannot be read from .*: ENOENT/);
  } finally {
    await rm(folder, { recursive: true });
  }
});
