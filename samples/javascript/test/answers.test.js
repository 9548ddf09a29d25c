import assert from "node:assert/strict";
import test from "node:test";
import { answer, rowsOf } from "../src/answers.js";

test("one of several classes: softmax", () => {
  const { problemType, probabilities } = answer([0, Math.log(3)], ["no", "yes"], null);
  assert.equal(problemType, "single_label_classification");
  assert.deepEqual(probabilities?.map((value) => value.toFixed(12)), ["0.250000000000", "0.750000000000"]);
  assert.deepEqual(answer([1000, 0], ["a", "b"], null).probabilities, [1, 0], "large values do not overflow");
});

test("several right classes: sigmoid of each", () => {
  const { probabilities } = answer([0, Math.log(3), -1000], ["a", "b", "c"], "multi_label_classification");
  assert.deepEqual(probabilities?.map((value) => value.toFixed(12)), ["0.500000000000", "0.750000000000", "0.000000000000"]);
});

test("values have no probabilities, and one output is a value", () => {
  for (const stated of /** @type {const} */ ([null, "single_label_classification", "regression"]))
    assert.deepEqual(answer([3.5], ["stars"], stated), {
      problemType: "regression",
      labels: ["stars"],
      logits: [3.5],
      probabilities: null,
    });
});

test("as many labels as values", () => {
  assert.throws(() => answer([1, 2, 3], ["a", "b"], null), /logits: expected 2, one for each label, found 3/);
});

test("rows of float16, as bits and as numbers", () => {
  const bits = Uint16Array.of(0x3c00, 0xc100, 0x0001, 0x7c00, 0xfc00, 0x0000);
  assert.deepEqual(rowsOf({ type: "float16", dims: [2, 3], data: bits }, 2), [
    [1, -2.5, 2 ** -24],
    [Infinity, -Infinity, 0],
  ]);
  assert.deepEqual(rowsOf({ type: "float16", dims: [1, 1], data: Uint16Array.of(0x7e00) }, 1), [[NaN]]);
  assert.deepEqual(rowsOf({ type: "float16", dims: [1, 2], data: Float32Array.of(1, 2) }, 1), [[1, 2]]);
  assert.throws(() => rowsOf({ type: "float32", dims: [2, 1], data: Float32Array.of(1, 2) }, 1), /expected 1 rows/);
});
