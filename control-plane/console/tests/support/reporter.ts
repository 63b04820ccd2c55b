// One line for each test, and a last one that counts, as our other suites have it.

import type { Reporter, TestCase, TestResult } from "@playwright/test/reporter";

export default class Lines implements Reporter {
  private passed = 0;
  private failed = 0;

  onTestEnd(test: TestCase, result: TestResult): void {
    const isOk = test.outcome() === "expected" && result.status === "passed";
    if (isOk) this.passed += 1;
    else this.failed += 1;
    const title = test.titlePath().slice(2).join(" › ");
    console.log(`${isOk ? "ok" : "FAILED"} ${title} (${(result.duration / 1_000).toFixed(1)} s)`);
    for (const { description = "", type } of test.annotations) {
      if (type === "measured") console.log(`   ${description}`);
    }
    for (const { message, stack } of result.errors) console.log(stack ?? message);
  }

  onError(error: { message?: string; stack?: string }): void {
    this.failed += 1;
    console.log(error.stack ?? error.message);
  }

  onEnd(): void {
    console.log(`${this.passed} passed, ${this.failed} failed`);
  }

  printsToStdio(): boolean {
    return true;
  }
}
