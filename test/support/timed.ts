/**
 * For a test that bounds how long something takes, or how many statements fit into that: a machine that is busy with
 * other things holds up one try or two, and what is too slow is so every time.
 */
export const TIMED = { retry: 3 };
