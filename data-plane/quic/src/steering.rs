//! The same decision as [`crate::route`] takes for short headers, as a program of classic BPF that the kernel runs for a group of
//! sockets on one port: a datagram of a client that changed its address still reaches the socket of its shard.
//!
//! It sees the UDP payload and answers with the index of a socket, in the order in which they were bound. An index that there is
//! not lets the kernel go by its hash of the addresses, as without a program.

use crate::cid::{CLEAR, CidKey, NONCE_TAIL, ROUND, Step, initial};

/// One instruction, in the words of `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// How far to jump if a test holds.
    pub jump_true: u8,
    /// How far to jump if it does not.
    pub jump_false: u8,
    /// The constant.
    pub k: u32,
}

// Source: linux/bpf_common.h and linux/filter.h.
const LOAD_BYTE: u16 = 0x30;
const LOAD_HALF: u16 = 0x28;
const LOAD_WORD: u16 = 0x20;
const LOAD_CONSTANT: u16 = 0x00;
const LOAD_MEMORY: u16 = 0x60;
const LOAD_X_MEMORY: u16 = 0x61;
const STORE: u16 = 0x02;
const ADD_X: u16 = 0x0C;
const XOR_X: u16 = 0xAC;
const XOR: u16 = 0xA4;
const OR: u16 = 0x44;
const OR_X: u16 = 0x4C;
const AND: u16 = 0x54;
const SHIFT_LEFT: u16 = 0x64;
const SHIFT_RIGHT: u16 = 0x74;
const JUMP_SET: u16 = 0x45;
const JUMP_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
const RETURN_A: u16 = 0x16;

/// No socket has it.
const BY_HASH: u32 = u32::MAX;

/// Cells of memory: 0 to 3 are the hash's state.
const SPARE: u32 = 4;

/// The program for a node's group of sockets. About 420 instructions; the kernel takes up to 4,096 and compiles them.
pub fn steering(key: &CidKey) -> Vec<Instruction> {
    let mut program = Program(Vec::new());
    // Long headers by hash: what comes from one address and port then stays together.
    program.add(LOAD_BYTE, 0);
    program.unless(JUMP_SET, 0x80, false);
    // So do ids of other generations.
    program.add(LOAD_BYTE, 1);
    program.add(AND, u32::from(CLEAR >> 8));
    program.unless(JUMP_EQUAL, u32::from(key.generation) << 6, true);
    for (cell, value) in (0..).zip(initial(key.key)) {
        program.add(LOAD_CONSTANT, value);
        program.add(STORE, cell);
    }
    for word in 0..2 {
        program.load_word(word);
        program.xor_into(3);
        program.round();
        program.load_word(word);
        program.xor_into(0);
    }
    program.add(LOAD_MEMORY, 2);
    program.add(XOR, 0xFF);
    program.add(STORE, 2);
    for _ in 0..3 {
        program.round();
    }
    program.add(LOAD_MEMORY, 1);
    program.add(LOAD_X_MEMORY, 3);
    program.add(XOR_X, 0);
    program.add(STORE, SPARE);
    program.add(LOAD_BYTE, 2);
    program.add(LOAD_X_MEMORY, SPARE);
    program.add(XOR_X, 0);
    program.add(AND, 0xFF);
    program.add(RETURN_A, 0);
    program.0
}

struct Program(Vec<Instruction>);

impl Program {
    fn add(&mut self, code: u16, k: u32) {
        self.0.push(Instruction { code, jump_true: 0, jump_false: 0, k });
    }

    /// Ends with [`BY_HASH`] unless the test has this outcome.
    fn unless(&mut self, code: u16, k: u32, outcome: bool) {
        let (jump_true, jump_false) = if outcome { (1, 0) } else { (0, 1) };
        self.0.push(Instruction { code, jump_true, jump_false, k });
        self.add(RETURN, BY_HASH);
    }

    /// A word of the nonce, which begins behind the header's first byte and 2 bytes of the id.
    fn load_word(&mut self, word: u32) {
        if word == 0 {
            self.add(LOAD_WORD, 3);
        } else {
            self.add(LOAD_HALF, 7);
            self.add(OR, NONCE_TAIL);
        }
    }

    /// Takes the accumulator into a cell.
    fn xor_into(&mut self, cell: u32) {
        self.add(LOAD_X_MEMORY, cell);
        self.add(XOR_X, 0);
        self.add(STORE, cell);
    }

    fn round(&mut self) {
        let cell = |place: usize| u32::try_from(place).unwrap_or(SPARE);
        for step in ROUND {
            match step {
                Step::Add(a, b) => {
                    self.add(LOAD_MEMORY, cell(a));
                    self.add(LOAD_X_MEMORY, cell(b));
                    self.add(ADD_X, 0);
                    self.add(STORE, cell(a));
                }
                Step::Xor(a, b) => {
                    self.add(LOAD_MEMORY, cell(b));
                    self.xor_into(cell(a));
                }
                Step::Rotate(a, bits) => {
                    self.add(LOAD_MEMORY, cell(a));
                    self.add(SHIFT_LEFT, bits);
                    self.add(STORE, SPARE);
                    self.add(LOAD_MEMORY, cell(a));
                    self.add(SHIFT_RIGHT, 32 - bits);
                    self.add(LOAD_X_MEMORY, SPARE);
                    self.add(OR_X, 0);
                    self.add(STORE, cell(a));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use quinn_proto::ConnectionIdGenerator;

    use super::*;
    use crate::cid::{LastCid, ShardCids};

    /// As the kernel runs it: a load beyond the packet ends the program with 0.
    fn run(program: &[Instruction], packet: &[u8]) -> u32 {
        let (mut a, mut x, mut memory, mut at) = (0_u32, 0_u32, [0_u32; 16], 0);
        loop {
            let Instruction { code, jump_true, jump_false, k } = program[at];
            at += 1;
            let place = k as usize;
            match code {
                LOAD_BYTE | LOAD_HALF | LOAD_WORD => {
                    let len = match code {
                        LOAD_BYTE => 1,
                        LOAD_HALF => 2,
                        _ => 4,
                    };
                    let Some(bytes) = packet.get(place..place + len) else { return 0 };
                    a = bytes.iter().fold(0, |word, &byte| word << 8 | u32::from(byte));
                }
                LOAD_CONSTANT => a = k,
                LOAD_MEMORY => a = memory[place],
                LOAD_X_MEMORY => x = memory[place],
                STORE => memory[place] = a,
                ADD_X => a = a.wrapping_add(x),
                XOR_X => a ^= x,
                XOR => a ^= k,
                OR => a |= k,
                OR_X => a |= x,
                AND => a &= k,
                SHIFT_LEFT => a <<= k,
                SHIFT_RIGHT => a >>= k,
                JUMP_SET => at += usize::from(if a & k != 0 { jump_true } else { jump_false }),
                JUMP_EQUAL => at += usize::from(if a == k { jump_true } else { jump_false }),
                RETURN => return k,
                RETURN_A => return a,
                other => panic!("{other:x}"),
            }
        }
    }

    #[test]
    fn the_program_finds_the_shard_of_every_id() {
        let key = CidKey::new(*b"8 bytes.").placed(1, 9);
        let program = steering(&key);
        assert!(program.len() < 500, "{}", program.len());
        for shard in [0, 1, 5, 255] {
            let mut ids = ShardCids::new(key, shard, [u64::from(shard), 2], LastCid::default());
            for first in 0..64 {
                let packet = [&[0x40 | first], &ids.generate_cid()[..], &[1; 20]].concat();
                assert_eq!(run(&program, &packet), u32::from(shard));
            }
        }
    }

    #[test]
    fn what_is_not_of_this_key_goes_by_hash() {
        let key = CidKey::new(*b"8 bytes.").placed(1, 9);
        let program = steering(&key);
        let cid = ShardCids::new(key.placed(2, 9), 1, [1, 2], LastCid::default()).generate_cid();
        assert_eq!(run(&program, &[&[0x40], &cid[..]].concat()), BY_HASH);
        assert_eq!(run(&program, &[0xC0; 1200]), BY_HASH);
        for len in 0..5 {
            assert_eq!(run(&program, &vec![0x40; len]), 0, "too short for anybody");
        }
    }
}
