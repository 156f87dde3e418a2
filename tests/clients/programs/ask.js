// `ask.js LIBRARY METHOD URL BODY`: prints what comes as it comes, then the status.
'use strict';

const { writeSync } = require('node:fs');
const [library, method, url, body] = process.argv.slice(2);
const show = (piece) => writeSync(1, piece);

const ways = {
  module() {
    return new Promise((resolve, reject) => {
      const request = require(new URL(url).protocol.slice(0, -1)).request(url, { method });
      request.on('error', reject);
      request.on('response', (answer) => {
        answer.on('data', show);
        answer.on('error', reject);
        answer.on('end', () => resolve(answer.statusCode));
      });
      request.end(body || undefined);
    });
  },

  async fetch() {
    const answer = await fetch(url, { method, body: body || undefined });
    for await (const piece of answer.body) show(piece);
    return answer.status;
  },

  axios: () => byAxios(require('axios')),
  'axios-old': () => byAxios(require('axios-old')),

  async undici() {
    const { EnvHttpProxyAgent, fetch, setGlobalDispatcher } = require('undici');
    setGlobalDispatcher(new EnvHttpProxyAgent());
    const answer = await fetch(url, { method, body: body || undefined });
    for await (const piece of answer.body) show(piece);
    return answer.status;
  },

  async 'node-fetch'() {
    const { default: fetch } = await import(require.resolve('node-fetch'));
    const answer = await fetch(url, { method, body: body || undefined });
    for await (const piece of answer.body) show(piece);
    return answer.status;
  },
};

async function byAxios(axios) {
  const answer = await axios.request({
    url, method, data: body || undefined, responseType: 'stream', validateStatus: () => true,
  });
  for await (const piece of answer.data) show(piece);
  return answer.status;
}

ways[library]().then(
  (status) => show(`\nstatus=${status}`),
  (error) => { console.error(error); process.exit(1); },
);
