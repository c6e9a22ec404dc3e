// Tests of the page's modules, run inside the page: each returns what went wrong, as texts.

export async function sse() {
  const {SseParser} = await import('/page/sse.js');
  const wrong = [];
  const stream = '\ufeff: hello\r\ndata: one\r\ndata: more\r\n\r\n:\ndata:{"a": "é🐱"}\n\nevent: odd\rdata: two\rdata:  lines\r\r' +
    'data\n\nid: 7\nnothing\n\nevent: alone\n\n\n\r\ndata: last\n\ndata: never ended';
  const wanted = JSON.stringify([
    {type: 'message', data: 'one\nmore'}, {type: 'message', data: '{"a": "é🐱"}'}, {type: 'odd', data: 'two\n lines'},
    {type: 'message', data: ''}, {type: 'message', data: 'last'}]);
  const bytes = new TextEncoder().encode(stream);
  const check = (cuts) => {
    const parser = new SseParser();
    const events = [];
    let at = 0;
    for (const cut of [...cuts, bytes.length]) {
      events.push(...parser.push(bytes.slice(at, cut)));
      at = cut;
    }
    if (JSON.stringify(events) !== wanted) wrong.push(`cut at ${cuts}: ${JSON.stringify(events)}`);
  };
  check([...bytes.keys()]);
  for (let a = 0; a <= bytes.length; a += 1) for (let b = a; b <= bytes.length; b += 1) check([a, b]);
  return wrong.slice(0, 3);
}

export async function metrics() {
  const {parseMetrics, quantileBetween, rateBetween} = await import('/page/metrics.js');
  const wrong = [];
  const same = (what, got, wanted) => {
    if (JSON.stringify(got) !== JSON.stringify(wanted)) wrong.push(`${what}: ${JSON.stringify(got)}`);
  };
  const {values, histograms} = parseMetrics([
    '# HELP tandem:a text', 'tandem:a{m="x y} 3"} 2', 'tandem:a{m="z"} 3', 'tandem:b 0.5', 'other:c 1', 'tandem:d nonsense',
    'tandem:h_bucket{le="1"} 1', 'tandem:h_bucket{m="{,le",le="+Inf"} 4', 'tandem:h_bucket{m="",le="0.5"} 0', 'tandem:h_count 4',
  ].join('\n'));
  same('values', [...values], [['a', 5], ['b', 0.5], ['h_count', 4]]);
  same('bounds', histograms.get('h').map(({le}) => String(le)), ['0.5', '1', 'Infinity']);
  same('counts', histograms.get('h').map(({count}) => count), [0, 1, 4]);

  const histogram = (...counts) => counts.map((count, i) => ({le: [1, 2, 4, Infinity][i], count}));
  const none = histogram(5, 5, 5, 5);
  same('median in the first bucket', quantileBetween(none, histogram(9, 9, 9, 9), 0.5), 0.5);
  same('median in the middle', quantileBetween(none, histogram(6, 6, 10, 10), 0.5), 2.75);
  same('above all bounds', quantileBetween(none, histogram(5, 5, 5, 9), 0.5), 4);
  same('nothing new', quantileBetween(none, none, 0.5), null);
  same('started over', quantileBetween(none, histogram(1, 1, 1, 1), 0.5), null);
  same('unknown', quantileBetween(undefined, none, 0.5), null);
  same('rate', rateBetween(10, 30, 2), 10);
  same('fallen', rateBetween(30, 10, 2), null);
  same('no time', rateBetween(1, 2, 0), null);
  return wrong;
}

const kInline = [
  ['a **b** *c* ~~d~~ `e` f', 'a <strong>b</strong> <em>c</em> <del>d</del> <code>e</code> f'],
  ['***both*** and **in *side* it**', '<strong><em>both</em></strong> and <strong>in <em>side</em> it</strong>'],
  ['2 * 3 * 4, a_b_c, __init__.py, **open', '2 * 3 * 4, a_b_c, <strong>init</strong>.py, **open'],
  ['*a **b* c**', '<em>a **b</em> c**'],
  ['`a` ``b`c`` ```', '<code>a</code> <code>b`c</code> ```'],
  ['\\*no\\* <b>&amp;</b>', '*no* &lt;b&gt;&amp;amp;&lt;/b&gt;'],
  ['[x](javascript:alert(1)) [y](https://a.b/c)', '[x](javascript:alert(1)) <a href="https://a.b/c" target="_blank" rel="noopener noreferrer">y</a>'],
  ['see https://a.b/c_d_e.', 'see <a href="https://a.b/c_d_e" target="_blank" rel="noopener noreferrer">https://a.b/c_d_e</a>.'],
  ['[a](data:text/html,x) [b](vbscript:x)', '[a](data:text/html,x) [b](vbscript:x)'],
];
const kBlocks = [
  ['a\nb\n\nc', '<p>a<br>b</p><p>c</p>'],
  ['# T #\n## U', '<h3>T</h3><h4>U</h4>'],
  ['- a\n- b\n  - c\n\n  d\n3. e', '<ul><li><p>a</p></li><li><p>b</p><ul><li><p>c</p></li></ul><p>d</p></li></ul><ol start="3"><li><p>e</p></li></ol>'],
  ['> a\n> - b\n\n---', '<blockquote><p>a</p><ul><li><p>b</p></li></ul></blockquote><hr>'],
  ['x\n| a | b |\n|---|:-:|\n| 1 | **2** |\n\ny', '<p>x</p><div class="table" tabindex="0"><table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>1</td><td><strong>2</strong></td></tr></tbody></table></div><p>y</p>'],
];
const kCode = ['~~~js\nif (a < b) {}\n```\n~~~', '```\na\n\n  b', '   ```c++\n   x\n    y\n   ```\nend'];

export async function markdown() {
  const {appendMarkdown, MarkdownView} = await import('/page/markdown.js');
  const {appendInline} = await import('/page/markdown_inline.js');
  const wrong = [];
  const box = () => document.createElement('div');
  const whole = (text) => {
    const parent = box();
    appendMarkdown(parent, text);
    return parent;
  };
  for (const [text, html] of kInline) {
    const parent = box();
    appendInline(parent, text);
    if (parent.innerHTML !== html) wrong.push(`${text}: ${parent.innerHTML}`);
  }
  for (const [text, html] of kBlocks) if (whole(text).innerHTML !== html) wrong.push(`${text}: ${whole(text).innerHTML}`);
  const codes = kCode.map((text) => whole(text).querySelector('pre code').textContent);
  if (JSON.stringify(codes) !== JSON.stringify(['if (a < b) {}\n```', 'a\n\n  b', 'x\n y'])) wrong.push(JSON.stringify(codes));

  // A text that grows shows at every moment what it would show as a whole.
  let seed = 1;
  const below = (n) => {
    seed = (seed * 1103515245 + 12345) % 2147483648;
    return Math.floor((seed / 2147483648) * n);
  };
  const parts = ['\n', '\n', '\n\n', '- ', '1. ', '  ', '> ', '# ', '```', '```js', '~~~', '---', '|', '| a | b |', '|---|---|', 'word',
    ' ', '**', '*', '_', '`', '[x](https://a.b)', 'é🐱', '\r\n', '\t', '<b>', '-', '\\'];
  for (let round = 0; round < 3000; round += 1) {
    const parent = box();
    const view = new MarkdownView(parent);
    let text = '';
    for (let n = below(30); n > 0; n -= 1) {
      text += parts[below(parts.length)];
      view.update(text);
      // Code that grew has several text nodes; and text nodes are not what is compared.
      if (parent.innerHTML === whole(text).innerHTML) continue;
      wrong.push(`${JSON.stringify(text)}: ${parent.innerHTML} and not ${whole(text).innerHTML}`);
      return wrong;
    }
  }

  // Hostile sizes: these would take minutes, or the stack, if anything in them were quadratic or recursive.
  for (const text of ['*'.repeat(20000), '**a '.repeat(5000), '`'.repeat(20000), '` `` '.repeat(4000), '> '.repeat(5000) + 'x',
    '- '.repeat(5000) + 'x', '['.repeat(5000), '[a]('.repeat(3000), '|'.repeat(20000) + '\n|-', '_a'.repeat(10000), '\n'.repeat(20000)])
    whole(text);
  return wrong;
}

export async function chats() {
  const {addNode, exportText, importText, newChat, nodeOf, pathOf, showNode, siblingsOf} = await import('/page/chats.js');
  const wrong = [];
  const same = (what, got, wanted) => {
    if (JSON.stringify(got) !== JSON.stringify(wanted)) wrong.push(`${what}: ${JSON.stringify(got)}`);
  };
  const chat = newChat();
  const texts = () => pathOf(chat).map(({text}) => text);
  const a = addNode(chat, null, 'user', 'a\nmore');
  const b = addNode(chat, a, 'assistant', 'b');
  const c = addNode(chat, b, 'user', 'c');
  const d = addNode(chat, a, 'assistant', 'd');
  addNode(chat, c, 'assistant', 'e');
  same('title', chat.title, 'a');
  same('latest', texts(), ['a\nmore', 'b', 'c', 'e']);
  showNode(chat, d);
  same('other answer', texts(), ['a\nmore', 'd']);
  showNode(chat, b);
  same('back', texts(), ['a\nmore', 'b', 'c', 'e']);
  same('siblings', siblingsOf(chat, d).map(({text}) => text), ['b', 'd']);
  same('none', nodeOf(chat, 'x'), null);

  const [copy] = importText(exportText([chat]));
  same('new id', copy.id === chat.id, false);
  same('the rest', {...copy, id: 0}, {...chat, id: 0});
  const node = (fields) => ({id: '1', parent: null, role: 'user', text: 'x', ...fields});
  const refused = (what, value) => {
    try {
      importText(value);
      wrong.push(`${what} was taken`);
    } catch {
      // as it should be
    }
  };
  const file = (nodes) => JSON.stringify({format: 'tandem-conversations', chats: [{nodes}]});
  refused('no JSON', 'hello');
  refused('null', 'null');
  refused('another file', '{"chats": []}');
  refused('no list', '{"format": "tandem-conversations", "chats": 3}');
  refused('a null chat', '{"format": "tandem-conversations", "chats": [null]}');
  refused('no nodes', '{"format": "tandem-conversations", "chats": [{}]}');
  refused('a null node', file([null]));
  refused('a role', file([node({role: 'system'})]));
  refused('twice', file([node({}), node({})]));
  refused('its own parent', file([node({parent: '1'})]));
  refused('a later parent', file([node({parent: '2'}), node({id: '2'})]));
  refused('no id', file([node({id: 7})]));
  const [cleaned] = importText(file([node({text: 3, stats: {tokens: 'x', finish: {}}, more: 1})]));
  same('cleaned', cleaned.nodes, [{id: '1', parent: null, role: 'user', text: '', reasoning: '', model: '',
    stats: {tokens: 0, promptTokens: 0, firstMs: null, perSecond: null, thoughtMs: null, finish: ''}, error: ''}]);
  return wrong;
}
