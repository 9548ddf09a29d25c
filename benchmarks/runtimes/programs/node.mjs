// A job (benchmarks/runtimes/jobs.py) in onnxruntime-node.

import { readFileSync } from "node:fs";
import ort from "onnxruntime-node";
import { answers } from "./sequences.mjs";

const answer = { version: ort.env.versions.node ?? ort.env.versions.common };
try {
  const job = JSON.parse(readFileSync(0, "utf8"));
  answer.answers = await answers(ort, job, () => ort.InferenceSession.create(job.model, { logSeverityLevel: 3 }));
} catch (error) {
  answer.refused = error.message;
}
console.log(JSON.stringify(answer));
