/**
 * Ends this process when the one that started it is gone. An orphan would go on working on a database that is
 * being removed, and keep its PostgreSQL servers running.
 */
setInterval(() => {
  if (!process.connected) process.exit(1);
}, 250).unref();
