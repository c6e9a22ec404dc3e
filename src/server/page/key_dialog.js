// Asks for the API key when the server wants one.

import {apiKey} from './api.js';
import {find} from './dom.js';

let asking = null;

// Resolves to true once a key was given, to false if it was not. `message` is why the server refused.
export function askForKey(message) {
  asking ??= ask(message).finally(() => {
    asking = null;
  });
  return asking;
}

function ask(message) {
  const dialog = find('key-dialog');
  const input = find('key-input');
  find('key-reason').textContent = message;
  input.value = '';
  dialog.showModal();
  input.focus();
  return new Promise((resolve) => {
    const settle = (given) => {
      for (const stop of stops) stop();
      if (given) apiKey.set(input.value.trim());
      input.value = '';
      dialog.close();
      resolve(given);
    };
    const listen = (target, type, listener) => {
      target.addEventListener(type, listener);
      return () => target.removeEventListener(type, listener);
    };
    const stops = [
      listen(find('key-form'), 'submit', (event) => {
        event.preventDefault();
        if (input.value.trim() !== '') settle(true);
      }),
      listen(find('key-cancel'), 'click', () => settle(false)),
      listen(dialog, 'cancel', (event) => {
        event.preventDefault();
        settle(false);
      }),
    ];
  });
}
