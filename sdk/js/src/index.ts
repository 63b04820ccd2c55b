export * from "./code.js";
