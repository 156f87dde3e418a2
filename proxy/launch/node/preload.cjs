// Makes Node take its proxy from the environment where it does not do so by itself. Before 22.21 and
// 24.5 it never does; since then NODE_USE_ENV_PROXY makes fetch do it, and http and https where
// their global agent is used (Node 24.21: `new http.Agent()` and `agent: false` go past the proxy,
// and headers given as a list lack the credential).
//
// Loaded into every Node program by `autopay run`, so it does little until a request is made, needs
// no package, and leaves alone every agent that is more than Node's own.
//
//   http.request, http.get     absolute-form requests to the proxy
//   https.request, https.get   a tunnel by CONNECT, TLS inside
//   fetch                      the same two ways, by a dispatcher for the undici that Node bundles
'use strict';

const [major, minor] = process.versions.node.split('.').map(Number);
const fetchKnows = major > 24 || (major === 24 && minor >= 5) || (major === 22 && minor >= 21);
install();

function install() {
  const http = require('node:http');
  const https = require('node:https');
  const net = require('node:net');
  const tls = require('node:tls');

  const proxies = {
    'http:': proxyOf(process.env.http_proxy || process.env.HTTP_PROXY),
    'https:': proxyOf(process.env.https_proxy || process.env.HTTPS_PROXY),
  };
  if (!proxies['http:'] && !proxies['https:']) return;
  const direct = (process.env.no_proxy || process.env.NO_PROXY || '')
    .toLowerCase().split(/[\s,]+/).filter(Boolean).map(hostAndPort);

  function proxyOf(text) {
    if (!text) return null;
    try {
      const url = new URL(text);
      if (url.protocol !== 'http:') return null;
      const user = `${decodeURIComponent(url.username)}:${decodeURIComponent(url.password)}`;
      return {
        origin: url.origin,
        host: unbracketed(url.hostname),
        port: Number(url.port) || 80,
        credential: user === ':' ? null : 'Basic ' + Buffer.from(user).toString('base64'),
      };
    } catch {
      return null;
    }
  }

  function unbracketed(host) {
    return host.startsWith('[') ? host.slice(1, -1) : host;
  }

  function hostAndPort(entry) {
    const found = /^(\[[^\]]+\]|[^:]*)(?::(\d+))?$/.exec(entry);
    return found ? { host: unbracketed(found[1]), port: found[2] } : { host: entry };
  }

  /** The proxy for a request, or null if it goes there by itself. */
  function proxyFor(protocol, host, port) {
    const proxy = proxies[protocol];
    const name = unbracketed(String(host || 'localhost').toLowerCase());
    if (!proxy || (name === proxy.host && Number(port) === proxy.port)) return null;
    const bypassed = direct.some((entry) => {
      if (entry.port && Number(entry.port) !== Number(port)) return false;
      const bare = entry.host.replace(/^\./, '');
      return bare === '*' || name === bare || name.endsWith('.' + bare);
    });
    return bypassed ? null : proxy;
  }

  /** Open a tunnel; calls done(error, socket) once. */
  function tunnel(proxy, host, port, done) {
    const target = `${net.isIPv6(host) ? `[${host}]` : host}:${port}`;
    const headers = { host: target };
    if (proxy.credential) headers['proxy-authorization'] = proxy.credential;
    const request = http.request({
      host: proxy.host, port: proxy.port, method: 'CONNECT', path: target, headers, agent: false,
    });
    request.once('error', done);
    request.once('connect', (answer, socket, head) => {
      if (answer.statusCode !== 200) {
        socket.destroy();
        done(new Error(`the proxy answered CONNECT ${target} with status ${answer.statusCode}`));
        return;
      }
      if (head.length) socket.unshift(head);
      done(null, socket);
    });
    request.end();
  }

  // --- http and https

  const { addRequest, createSocket, createConnection } = http.Agent.prototype;
  const createTlsConnection = https.Agent.prototype.createConnection;

  /** Whether this agent does nothing but what Node's own agents do. */
  function isPlain(agent) {
    return agent.addRequest === addRequestByProxy && agent.createSocket === createSocket &&
      (agent.createConnection === createConnection ||
        agent.createConnection === createTlsConnectionByProxy);
  }

  function addRequestByProxy(request, options, ...rest) {
    // Given as (request, host, port, localAddress) by very old callers only.
    if (options && typeof options === 'object' && !options.socketPath && isPlain(this) &&
        !(this instanceof https.Agent) && request.method !== 'CONNECT') {
      const port = options.port || 80;
      const proxy = proxyFor('http:', options.host, port);
      if (proxy) {
        toAbsolute(request, options.host, port, proxy);
        options = { ...options, host: proxy.host, port: proxy.port };
        delete options.hostname;
        delete options.lookup;
        delete options.family;
      }
    }
    return addRequest.call(this, request, options, ...rest);
  }

  function toAbsolute(request, host, port, proxy) {
    const named = request.getHeader('host') ||
      (net.isIPv6(host) ? `[${host}]` : host) + (Number(port) === 80 ? '' : `:${port}`);
    const path = request.path;
    if (!/^[a-z][a-z0-9+.-]*:\/\//i.test(path)) request.path = `http://${named}${path}`;
    if (request._header === null) {
      if (proxy.credential) request.setHeader('Proxy-Authorization', proxy.credential);
      return;
    }
    // Its head is written already (headers given as a list, or Expect): mend the text.
    const line = proxy.credential ? `Proxy-Authorization: ${proxy.credential}\r\n` : '';
    const before = request._header;
    const start = `${request.method} ${path} `;
    const end = before.indexOf('\r\n') + 2;
    request._header =
      `${request.method} ${request.path} ${before.slice(start.length, end)}${line}${before.slice(end)}`;
    const first = request.outputData[0];
    if (first && typeof first.data === 'string' && first.data.startsWith(before)) {
      first.data = request._header + first.data.slice(before.length);
      request.outputSize += request._header.length - before.length;
    }
  }

  function createTlsConnectionByProxy(...args) {
    const options = args.find((arg) => arg && typeof arg === 'object');
    const done = args.find((arg) => typeof arg === 'function');
    // proxyEnv: an agent that makes the tunnel itself.
    const given = !options || options.socket || options.socketPath || !done ||
      (this && this.options && this.options.proxyEnv);
    const port = (options && options.port) || 443;
    const proxy = given ? null : proxyFor('https:', options.host, port);
    if (!proxy) return createTlsConnection.apply(this, args);
    tunnel(proxy, options.host, port, (error, socket) => {
      if (error) done(error);
      else done(null, createTlsConnection.call(this, { ...options, socket }));
    });
    return undefined;
  }

  http.Agent.prototype.addRequest = addRequestByProxy;
  https.Agent.prototype.createConnection = createTlsConnectionByProxy;

  // --- fetch

  if (fetchKnows || typeof globalThis.fetch !== 'function') return;
  const nodes = globalThis.fetch;
  const key = Symbol.for('undici.globalDispatcher.1');
  let ready = false;

  // Node loads its undici when fetch is first called. That takes 20 ms, which only who calls it
  // shall pay.
  globalThis.fetch = function fetch(input, init) {
    if (!ready) {
      ready = true;
      void globalThis.Response;
      dispatchByProxy();
    }
    return nodes(input, init);
  };

  function dispatchByProxy() {
    const own = globalThis[key];
    // Whoever has set one of his own knows better.
    if (!own || own.constructor.name !== 'Agent') return;
    const Agent = own.constructor;

    class ByProxy extends Agent {
      constructor() {
        super({ connect });
      }

      dispatch(options, handler) {
        const url = new URL(options.origin);
        const port = url.port || (url.protocol === 'https:' ? 443 : 80);
        const proxy = proxyFor(url.protocol, url.hostname, port);
        if (!proxy) return own.dispatch(options, handler);
        if (url.protocol === 'https:') return super.dispatch(options, handler);
        const headers = listed(options.headers);
        if (!headers.some(([name]) => name.toLowerCase() === 'host')) {
          headers.push(['host', url.host]);
        }
        if (proxy.credential) headers.push(['proxy-authorization', proxy.credential]);
        return own.dispatch(
          { ...options, origin: proxy.origin, path: url.origin + options.path,
            headers: headers.flat() },
          handler,
        );
      }
    }

    globalThis[key] = new ByProxy();
  }

  /** undici takes headers as a flat list, as pairs, or as an object. */
  function listed(headers) {
    if (!headers) return [];
    if (!Array.isArray(headers)) {
      const pairs = typeof headers[Symbol.iterator] === 'function' ? headers : Object.entries(headers);
      return [...pairs].map(([name, value]) => [name, value]);
    }
    const pairs = [];
    for (let at = 0; at < headers.length; at += 2) pairs.push([headers[at], headers[at + 1]]);
    return pairs.map(([name, value]) => [String(name), value]);
  }

  function connect(options, done) {
    const host = unbracketed(options.hostname);
    const port = options.port || 443;
    tunnel(proxyFor('https:', host, port), host, port, (error, plain) => {
      if (error) {
        done(error, null);
        return;
      }
      const socket = tls.connect({
        socket: plain,
        servername: options.servername || (net.isIP(host) ? '' : host),
        ALPNProtocols: ['http/1.1'],
      });
      const failed = (reason) => done(reason, null);
      socket.once('error', failed);
      socket.once('secureConnect', () => {
        socket.off('error', failed);
        done(null, socket);
      });
    });
  }
}
