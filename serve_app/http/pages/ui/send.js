// What is sent from the form of a panel.

import { withKey } from "/pages/shared/frame.js";

/**
 * Call `act` when the form is submitted, or Enter without Shift is pressed in `prompt` (if there is one).
 *
 * A request needs a model's name. Whoever sends before the list of models has come waits for it, and is asked for a key where one is needed.
 */
export function onSend(form, settings, act, prompt = null) {
  let waiting = false;
  const send = async () => {
    if (waiting) return;
    waiting = true;
    try {
      await withKey(() => settings.whenKnown());
    } catch {
      return; // The notice above the panels says why; what was typed stays.
    } finally {
      waiting = false;
    }
    act();
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  prompt?.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    }
  });
}
