import { defineConfig } from "@playwright/test";

export default defineConfig({
  testDir: ".",
  outputDir: "../build/results",
  fullyParallel: true,
  workers: 3,
  timeout: 80_000,
  expect: { timeout: 15_000 },
  forbidOnly: true,
  reporter: "./support/reporter.ts",
  use: {
    locale: "en-GB",
    viewport: { width: 1200, height: 760 },
    launchOptions: {
      executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
      args: [
        "--no-sandbox",
        "--disable-dev-shm-usage",
        // A page that comes from a folder seems to come from nowhere.
        ...(process.env.CONSOLE_DIST === undefined ? [] : ["--disable-features=LocalNetworkAccessChecks"]),
      ],
    },
  },
});
