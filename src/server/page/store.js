// Conversations in this browser's own database. Where there is none (a private window, a full disk) they last as long as
// the tab, which `isLasting` says.

const NAME = "moewe";
const KIND = "conversations";
const others = "BroadcastChannel" in globalThis ? new BroadcastChannel(NAME) : null;
const remembered = new Map();
let database = null;
let listeners = [];

export const isLasting = () => database !== null;

/** Opens the database. */
export async function open() {
  try {
    database = await new Promise((resolve, reject) => {
      const request = indexedDB.open(NAME, 1);
      request.onupgradeneeded = () => request.result.createObjectStore(KIND, { keyPath: "id" });
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
      request.onblocked = () => reject(new Error("blocked"));
    });
    for (const conversation of await done("readonly", (kept) => kept.getAll())) {
      remembered.set(conversation.id, conversation);
    }
  } catch {
    database = null;
  }
  // Another tab has written.
  others?.addEventListener("message", async ({ data: id }) => {
    const conversation = database && (await done("readonly", (kept) => kept.get(id)));
    if (conversation) remembered.set(id, conversation);
    else remembered.delete(id);
    listeners.forEach((listener) => listener(id));
  });
}

/** Calls back after every change, with the id of what changed. */
export const onChange = (listener) => void listeners.push(listener);

/** All conversations, the latest first. */
export const all = () => [...remembered.values()].sort((one, other) => other.changed - one.changed);

export const get = (id) => remembered.get(id);

/** Keeps a conversation as it is now. */
export async function save(conversation, { touch = true } = {}) {
  if (touch) conversation.changed = Date.now();
  remembered.set(conversation.id, conversation);
  await written(conversation.id, (kept) => kept.put(structuredClone(conversation)));
}

/** Forgets a conversation. */
export async function forget(id) {
  remembered.delete(id);
  await written(id, (kept) => kept.delete(id));
}

async function written(id, change) {
  if (database) await done("readwrite", change);
  others?.postMessage(id);
  listeners.forEach((listener) => listener(id));
}

function done(mode, act) {
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(KIND, mode);
    const request = act(transaction.objectStore(KIND));
    transaction.oncomplete = () => resolve(request.result);
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}
