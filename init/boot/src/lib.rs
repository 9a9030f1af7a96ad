//! What PID 1, machined and the image builder must agree on: command line, GPT, slots, verity superblock, META records, PID 1's protocol.
