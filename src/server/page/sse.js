// Server-sent events out of bytes, however they are cut: within characters, within "\r\n", within fields.
// Source: the WHATWG HTML standard, 9.2.6 "Interpreting an event stream".

export class SseParser {
  #decoder = new TextDecoder();  // drops a byte order mark
  #line = '';
  #data = [];
  #type = '';
  #afterReturn = false;

  // The events that these bytes complete: [{type, data}].
  push(bytes) {
    const text = this.#decoder.decode(bytes, {stream: true});
    const events = [];
    const lineEnd = /[\r\n]/g;
    for (let at = 0; at < text.length;) {
      if (this.#afterReturn && text[at] === '\n') at += 1;
      this.#afterReturn = false;
      lineEnd.lastIndex = at;
      const found = lineEnd.exec(text);
      if (found === null) {
        this.#line += text.slice(at);
        break;
      }
      const line = this.#line + text.slice(at, found.index);
      this.#line = '';
      this.#afterReturn = found[0] === '\r';
      at = found.index + 1;
      this.#readLine(line, events);
    }
    return events;
  }

  #readLine(line, events) {
    if (line === '') {
      if (this.#data.length > 0) events.push({type: this.#type || 'message', data: this.#data.join('\n')});
      this.#data = [];
      this.#type = '';
      return;
    }
    const colon = line.indexOf(':');
    if (colon === 0) return;  // a comment
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? '' : line.slice(colon + 1);
    if (value.startsWith(' ')) value = value.slice(1);
    if (field === 'data') this.#data.push(value);
    if (field === 'event') this.#type = value;
  }
}

// The events of a response's body, as they come.
export async function* readEvents(body) {
  const parser = new SseParser();
  const reader = body.getReader();
  try {
    for (;;) {
      const {done, value} = await reader.read();
      if (done) return;
      yield* parser.push(value);
    }
  } finally {
    reader.cancel().catch(() => {});  // an abandoned stream is of no use to anybody
  }
}
