// Adds a job for each line of a file: {"url", "body"}. Says "ready", begins once somebody writes
// into the pipe, and says {"seconds"} when Redis has all of them.
import { readFileSync } from "node:fs";
import { Queue } from "bullmq";
import { Redis } from "ioredis";

const [port, file, gate] = process.argv.slice(2);
const BULK = 100;
const queue = new Queue("webhooks", { connection: new Redis({ port: Number(port), maxRetriesPerRequest: null }) });
const jobs = readFileSync(file, "utf8")
  .split("\n")
  .filter(Boolean)
  .map((line) => ({
    name: "deliver",
    data: JSON.parse(line),
    // A job that is done is nobody's any more; one that failed for good is looked at.
    opts: { attempts: 5, backoff: { type: "exponential", delay: 1000 }, removeOnComplete: true },
  }));
await queue.waitUntilReady();
console.log("ready");
readFileSync(gate);
const began = performance.now();
for (let at = 0; at < jobs.length; at += BULK) await queue.addBulk(jobs.slice(at, at + BULK));
console.log(JSON.stringify({ seconds: (performance.now() - began) / 1000 }));
await queue.close();
process.exit(0);
