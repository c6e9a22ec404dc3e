// The server's metrics, read for plots: Prometheus text to numbers, and what happened between two readings.

export const kPrefix = 'tandem:';

// name -> value, over all label sets; histograms: name -> [{le, count}] by rising le, counts cumulative.
export function parseMetrics(text) {
  const values = new Map();
  const buckets = new Map();
  for (const line of text.split('\n')) {
    if (line === '' || line[0] === '#' || !line.startsWith(kPrefix)) continue;
    // NAME{LABELS} VALUE; a label's value may hold spaces and braces, so the value is what stands last.
    const brace = line.indexOf('{');
    const name = line.slice(kPrefix.length, brace < 0 ? line.indexOf(' ') : brace);
    const value = Number(line.slice(line.lastIndexOf(' ') + 1));
    if (Number.isNaN(value)) continue;
    if (!name.endsWith('_bucket')) {
      values.set(name, (values.get(name) ?? 0) + value);
      continue;
    }
    const le = /[{,]le="([^"]+)"/.exec(line)?.[1];
    if (le === undefined) continue;
    const histogram = name.slice(0, -'_bucket'.length);
    const bound = le === '+Inf' ? Infinity : Number(le);
    const counts = buckets.get(histogram) ?? new Map();
    counts.set(bound, (counts.get(bound) ?? 0) + value);
    buckets.set(histogram, counts);
  }
  const histograms = new Map();
  for (const [name, counts] of buckets) {
    const sorted = [...counts].sort(([a], [b]) => a - b);
    histograms.set(name, sorted.map(([le, count]) => ({le, count})));
  }
  return {values, histograms};
}

// The share `q` (0 to 1) of what was observed between two readings lies below the answer; linear within a bucket, and
// at the last bound for what lies above it. Null: nothing was observed, or the server has started over.
export function quantileBetween(before, after, q) {
  if (!before || !after || before.length !== after.length || after.length < 2) return null;
  const counts = after.map(({count}, i) => count - before[i].count);
  const total = counts[counts.length - 1];
  if (!(total > 0) || counts.some((count) => count < 0)) return null;
  const rank = q * total;
  const at = counts.findIndex((count) => count >= rank);
  const low = at === 0 ? 0 : after[at - 1].le;
  if (after[at].le === Infinity) return low;
  const below = at === 0 ? 0 : counts[at - 1];
  return low + (after[at].le - low) * ((rank - below) / (counts[at] - below));
}

// How fast a counter rose. Null where it fell: the server has started over.
export function rateBetween(before, after, seconds) {
  if (before === undefined || after === undefined || after < before || !(seconds > 0)) return null;
  return (after - before) / seconds;
}
