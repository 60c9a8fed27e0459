// Keeps the site, so that the second visit needs no network; and isolates the page, so that it may use threads.

const SITE = /* SITE */ null; // dmgan-export web writes what the site holds
const OURS = `dmgan ${self.registration.scope} `;
const CACHE = OURS + SITE.version;
const inside = (path) => new URL(path, self.registration.scope).href;
const KEPT = new Set([...SITE.page, ...SITE.large].map(inside));

self.addEventListener("install", (event) => {
  const page = SITE.page.map((path) => new Request(inside(path), { cache: "no-cache" }));
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(page)).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  const forget = async () => {
    const old = (await caches.keys()).filter((name) => name.startsWith(OURS) && name !== CACHE);
    await Promise.all(old.map((name) => caches.delete(name)));
    await self.clients.claim();
  };
  event.waitUntil(forget());
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const url = new URL(request.url);
  url.search = url.hash = "";
  const address = url.href.replace(/\/index\.html$/, "/");
  if (request.method === "GET" && KEPT.has(address)) event.respondWith(answer(event, address));
});

async function answer(event, address) {
  const cache = await caches.open(CACHE);
  const kept = await cache.match(address);
  if (kept) return isolated(kept);
  const response = await fetch(address, { cache: "no-cache" });
  if (response.ok) event.waitUntil(cache.put(address, response.clone()).catch(() => {})); // a full disk is no harm
  return isolated(response);
}

/** The response with the headers by which a page may share memory between threads, which static hosts seldom send. */
function isolated(response) {
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}
