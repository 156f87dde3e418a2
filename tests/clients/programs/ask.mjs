// `ask.mjs METHOD URL BODY` for Deno: prints what comes as it comes, then the status.
const [method, url, body] = Deno.args;
const show = (piece) => Deno.stdout.writeSync(piece);

const answer = await fetch(url, { method, body: body || undefined });
for await (const piece of answer.body) show(piece);
show(new TextEncoder().encode(`\nstatus=${answer.status}`));
