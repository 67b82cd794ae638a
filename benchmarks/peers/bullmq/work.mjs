// Delivers jobs: `axios`, as Evolution API sends its webhooks, with its connections kept (which
// its own default does not), or `undici`, the fastest client that Node has.
import http from "node:http";
import axios from "axios";
import { Worker } from "bullmq";
import { Redis } from "ioredis";
import { Pool } from "undici";

const [port, client, concurrency] = process.argv.slice(2);
const headers = { "content-type": "application/json" };

function byAxios() {
  const session = axios.create({
    timeout: 30_000,
    httpAgent: new http.Agent({ keepAlive: true, maxSockets: Number(concurrency) }),
    transformRequest: [(body) => body],
    headers,
  });
  return (job) => session.post(job.data.url, job.data.body);
}

function byUndici() {
  const pools = new Map();
  return async (job) => {
    const url = new URL(job.data.url);
    let pool = pools.get(url.origin);
    if (!pool) pools.set(url.origin, (pool = new Pool(url.origin, { connections: Number(concurrency) })));
    const answer = await pool.request({ path: url.pathname, method: "POST", headers, body: job.data.body });
    await answer.body.dump();
    if (answer.statusCode >= 300) throw new Error(`answered ${answer.statusCode}`);
  };
}

const deliver = client === "axios" ? byAxios() : byUndici();
const worker = new Worker("webhooks", async (job) => void (await deliver(job)), {
  connection: new Redis({ port: Number(port), maxRetriesPerRequest: null }),
  concurrency: Number(concurrency),
});
await worker.waitUntilReady();
console.log("ready");
process.on("SIGTERM", async () => {
  await worker.close();
  process.exit(0);
});
