// Keeps the site on the device, so that it works without a network from the second visit on, or once it is loaded.
// The build writes VERSION and SHELL, the files that the page begins with, in front of this.
//
// A new version of the site waits until no page of the old one is open. So one page never gets files of both.

// Sites in other folders of the server have caches of their own.
const PREFIX = `adapter-export-web ${self.registration.scope} `;
const CACHE = PREFIX + VERSION;

self.addEventListener("install", (event) => {
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(SHELL)));
});

self.addEventListener("activate", (event) => {
  event.waitUntil(
    (async () => {
      const old = (await caches.keys()).filter((name) => name.startsWith(PREFIX) && name !== CACHE);
      await Promise.all(old.map((name) => caches.delete(name)));
      await self.clients.claim();
    })(),
  );
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method === "GET" && request.url.startsWith(self.registration.scope)) event.respondWith(answered(event));
});

/** @param {FetchEvent} event */
async function answered(event) {
  const cache = await caches.open(CACHE);
  const wanted = event.request.mode === "navigate" ? self.registration.scope : event.request;
  // Servers answer "Vary: Origin", but every answer here is for this origin.
  const kept = await cache.match(wanted, { ignoreSearch: true, ignoreVary: true });
  if (kept) return kept;
  const response = await fetch(event.request);
  // A copy, while the page reads the answer itself.
  if (response.status === 200) event.waitUntil(cache.put(event.request, response.clone()));
  return response;
}
