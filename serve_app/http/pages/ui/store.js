// Conversations kept in this browser, if the user asks for it. Without that nothing is stored.

const KEY = "phi-serve.conversations";
const MOST = 50;

/** Conversations `{id, title, at, turns}`, newest first. Sends the event `change`. */
export class ConversationStore extends EventTarget {
  /** Whether conversations are kept. */
  get enabled() {
    return this.#read() !== null;
  }

  set enabled(wanted) {
    if (wanted && !this.enabled) this.#write([]);
    else if (!wanted) this.#write(null);
    this.dispatchEvent(new Event("change"));
  }

  /** The kept conversations. */
  list() {
    return this.#read() ?? [];
  }

  /** Keep a conversation in place of the one with its id; does nothing while nothing is kept. */
  save(conversation) {
    const kept = this.#read();
    if (kept === null || !conversation.turns.length) return;
    this.#write([conversation, ...kept.filter((each) => each.id !== conversation.id)].slice(0, MOST));
    this.dispatchEvent(new Event("change"));
  }

  /** Forget a conversation. */
  remove(id) {
    this.#write(this.list().filter((each) => each.id !== id));
    this.dispatchEvent(new Event("change"));
  }

  #read() {
    try {
      const kept = JSON.parse(localStorage.getItem(KEY));
      return Array.isArray(kept) ? kept.filter((each) => each && typeof each.id === "string" && Array.isArray(each.turns)) : null;
    } catch {
      return null;
    }
  }

  #write(conversations) {
    try {
      if (conversations === null) localStorage.removeItem(KEY);
      else localStorage.setItem(KEY, JSON.stringify(conversations));
    } catch {
      // Full or forbidden: the conversation lives as long as the page.
    }
  }
}
