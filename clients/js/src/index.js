/**
 * Towpath's client: `connect`, and what it gives out. See README.md; types are in index.d.ts.
 */
export { connect } from "./client.js";
export { keyOf } from "./envelope.js";
export { TowpathError } from "./errors.js";
