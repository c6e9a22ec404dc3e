// Makes elements. Text is only ever text: nothing here or elsewhere in the page parses HTML.

// h('button.small', {type: 'button', onclick}, 'Send', icon('send'))
//   properties  names that begin with "on" are listeners; "class" adds classes; true and false set or leave out an
//               attribute; the rest are attributes
export function h(selector, properties = {}, ...children) {
  const [tag, ...classes] = selector.split('.');
  const element = document.createElement(tag);
  if (classes.length > 0) element.className = classes.join(' ');
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, '');
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const find = (id) => document.getElementById(id);

const kPaths = {
  menu: 'M4 7h16M4 12h16M4 17h16',
  add: 'M12 5v14M5 12h14',
  send: 'M12 19V6M6 11l6-6 6 6',
  stop: 'M7 7h10v10H7z',
  copy: 'M9 9h10v11H9zM15 9V5H5v11h4',
  edit: 'M5 19l1-4L16 5l3 3L9 18z',
  again: 'M19 12a7 7 0 1 1-2-5M19 4v4h-4',
  trash: 'M5 7h14M10 7V5h4v2M7 7l1 12h8l1-12',
  left: 'M14 7l-5 5 5 5',
  right: 'M10 7l5 5-5 5',
  sliders: 'M4 8h8M18 8h2M18 8a3 3 0 1 1-6 0 3 3 0 0 1 6 0M4 16h2M12 16h8M12 16a3 3 0 1 1-6 0 3 3 0 0 1 6 0',
  pulse: 'M3 13h4l3-7 4 12 3-5h4',
  tokens: 'M4 6h6v5H4zM14 6h6v5h-6zM4 15h9v4H4zM17 15h3v4h-3z',
  theme: 'M12 4a8 8 0 0 1 0 16M12 4a8 8 0 0 0 0 16zM10 5v14M8 6v12M6 9v6',
  down: 'M12 5v12M6 12l6 6 6-6M5 20h14',
  up: 'M12 17V5M6 10l6-6 6 6M5 20h14',
  close: 'M6 6l12 12M18 6L6 18',
  check: 'M5 13l4 4L19 7',
  arrow: 'M12 6v12M6 12l6 6 6-6',
};

export function icon(name) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.setAttribute('aria-hidden', 'true');
  svg.setAttribute('class', `icon icon-${name}`);
  const path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
  path.setAttribute('d', kPaths[name]);
  svg.append(path);
  return svg;
}

// A button that shows an icon and says `label`.
export function iconButton(name, label, onclick) {
  return h('button.icon-button', {type: 'button', title: label, 'aria-label': label, onclick}, icon(name));
}

// Puts `text` on the clipboard; resolves to whether it got there.
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Over plain HTTP from another machine there is no clipboard interface, only the old command.
    const area = h('textarea.offscreen', {'aria-hidden': 'true'});
    area.value = text;
    document.body.append(area);
    area.select();
    const copied = document.execCommand('copy');
    area.remove();
    return copied;
  }
}

// A button that copies what `text()` gives, and says so for a moment.
export function copyButton(label, text) {
  const button = iconButton('copy', label, async () => {
    if (!(await copyText(text()))) return;
    button.replaceChildren(icon('check'));
    setTimeout(() => button.replaceChildren(icon('copy')), 1200);
  });
  return button;
}
