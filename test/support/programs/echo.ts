/** Tells what it was started with, then sends back each message that it gets. */
process.on("message", (message) => process.send?.(message));
console.log("not JSON");
console.log(JSON.stringify({ arguments: process.argv.slice(2), echo: process.env.ECHO }));
