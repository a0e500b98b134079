//! The core's data structures beside the plainest ones that do the same: a map, a list of deadlines, a queue of bytes.

use std::collections::{HashMap, VecDeque};
use std::io::IoSlice;

use penstock::core::buffer::{BufferPool, Owner, Run, SegmentQueue, TurnArena};
use penstock::core::slab::Slab;
use penstock::core::timer::{Links, TimerLink, TimerWheel};
use penstock::core::token::Token;

use crate::input::Input;

/// The first byte chooses the structure, each further one an operation.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte() % 4 {
        0 => check_slab(&mut input),
        1 => check_wheel(&mut input),
        2 => check_segments(&mut input),
        _ => check_arena(&mut input),
    }
}

fn check_slab(input: &mut Input<'_>) {
    let (mut slab, mut model) = (Slab::default(), HashMap::new());
    let (mut tokens, mut gone): (Vec<Token>, Vec<Token>) = (Vec::new(), Vec::new());
    let mut next = 0_u32;
    while !input.is_empty() {
        let (operation, choice) = (input.byte(), usize::from(input.byte()));
        match operation % 4 {
            0 | 1 => {
                for _ in 0..=(if operation > 250 && tokens.len() < 9000 { 4000 } else { choice % 4 }) {
                    let token = slab.insert(Box::new(next));
                    assert!(model.insert(token, next).is_none(), "{token:?} was given twice");
                    assert!(!gone.contains(&token), "{token:?} was given before");
                    tokens.push(token);
                    next += 1;
                }
            }
            2 if !tokens.is_empty() => {
                let token = tokens.swap_remove(choice % tokens.len());
                assert_eq!(slab.remove(token).map(|value| *value), model.remove(&token));
                gone.push(token);
            }
            _ if !tokens.is_empty() => {
                let token = tokens[choice % tokens.len()];
                *slab.get_mut(token).expect("a tenant").as_mut() += 1;
                *model.get_mut(&token).expect("a tenant") += 1;
                assert_eq!(slab.token_at(token.index), Some(token));
            }
            _ => {}
        }
        for token in gone.iter().rev().take(16) {
            assert!(slab.get(*token).is_none() && slab.remove(*token).is_none(), "a stale token reached somebody");
        }
        assert_eq!((slab.len(), slab.is_empty()), (model.len(), model.is_empty()));
    }
    assert!(model.iter().all(|(token, value)| slab.get(*token).is_some_and(|tenant| **tenant == *value)));
    assert_eq!(slab.tokens().len(), model.len());
}

struct Places(Vec<TimerLink>);

impl Links for Places {
    fn link(&mut self, index: u32) -> &mut TimerLink {
        &mut self.0[index as usize]
    }
}

fn check_wheel(input: &mut Input<'_>) {
    const PLACES: usize = 24;
    let (mut wheel, mut places) = (TimerWheel::default(), Places(vec![TimerLink::default(); PLACES]));
    let (mut model, mut now): ([Option<u32>; PLACES], u32) = ([None; PLACES], 0);
    while !input.is_empty() {
        let (operation, index) = (input.byte(), input.up_to(PLACES - 1));
        match operation % 8 {
            0..4 => {
                let after = match operation >> 6 {
                    0 => u32::from(input.byte()) % 8,
                    1 | 2 => u32::from(input.byte()) * 9,
                    _ => u32::from(input.word()) * 7,
                };
                // A deadline that has passed is met by the next sweep that moves.
                wheel.set(&mut places, index as u32, now + after);
                model[index] = Some((now + after).max(now + 1));
            }
            4 => {
                wheel.clear(&mut places, index as u32);
                model[index] = None;
            }
            5 => {
                wheel.unlink(&mut places, index as u32);
                (places.0[index], model[index]) = (TimerLink::default(), None);
            }
            _ => {
                now += if operation > 200 { u32::from(input.word()) } else { u32::from(input.byte() % 8) };
                let mut due = Vec::new();
                wheel.sweep(&mut places, now, &mut due);
                let mut expected: Vec<u32> = (0..PLACES as u32)
                    .filter(|&at| model[at as usize].is_some_and(|deadline| deadline <= now))
                    .collect();
                due.sort_unstable();
                expected.sort_unstable();
                assert_eq!(due, expected, "due at {now}");
                expected.iter().for_each(|&at| model[at as usize] = None);
            }
        }
        if let Some(first) = model.iter().flatten().min() {
            let tick = wheel.next_tick().expect("a deadline hangs somewhere");
            assert!(now < tick && tick <= *first, "the tick {tick} is past the deadline {first}, or before {now}");
        }
        for (at, deadline) in model.iter().enumerate() {
            assert_eq!(wheel.deadline(&mut places, at as u32), *deadline);
        }
    }
}

/// Bytes whose owner is known by a number, kept until it comes back.
struct Lent {
    bytes: HashMap<usize, Vec<u8>>,
    order: VecDeque<usize>,
}

fn check_segments(input: &mut Input<'_>) {
    let (mut queue, mut pool, mut released) = (SegmentQueue::new(), BufferPool::default(), Vec::new());
    let mut lent = Lent { bytes: HashMap::new(), order: VecDeque::new() };
    let (mut model, mut flight, mut next): (VecDeque<u8>, Option<Vec<(usize, usize)>>, usize) =
        (VecDeque::new(), None, 0);
    while !input.is_empty() {
        let operation = input.byte();
        match operation % 8 {
            0 | 1 => {
                let piece = input.piece();
                queue.push_copy(&mut pool, piece);
                model.extend(piece);
            }
            2 => {
                let bytes = input.piece().repeat(usize::from(operation >> 3) * 8 + 1);
                if bytes.is_empty() {
                    continue; // Nobody sends nothing: BodyWriter sees to that.
                }
                model.extend(&bytes);
                next += 1;
                // SAFETY: the bytes are kept, unchanged, until the owner comes back.
                unsafe { queue.push_borrowed(&bytes, Owner(next)) };
                lent.bytes.insert(next, bytes);
                lent.order.push_back(next);
            }
            3 => {
                // What begins and is taken back, as a head with an error in it is.
                queue.append_with(&mut pool, |out| {
                    let before = out.len();
                    out.extend_from_slice(b"a head that comes to nothing");
                    out.truncate(before);
                });
            }
            4 if flight.is_none() => {
                queue.begin_flight();
                flight = Some(places(&queue));
            }
            5 if operation > 240 => {
                queue.clear(&mut pool, &mut released);
                (flight, model) = (None, VecDeque::new());
            }
            _ => {
                let offered: usize = places(&queue).iter().map(|(_, length)| length).sum();
                let sent = offered.min(usize::from(input.byte()) * (1 + usize::from(operation >> 5)));
                if let Some(flight) = flight.take() {
                    let now = places(&queue);
                    assert_eq!(now[..flight.len()], flight, "a segment in flight moved or grew");
                }
                queue.advance(sent, &mut pool, &mut released);
                model.drain(..sent);
            }
        }
        for owner in released.drain(..) {
            assert_eq!(lent.order.pop_front(), Some(owner.0), "owners come back once, in order");
            lent.bytes.remove(&owner.0);
        }
        assert_eq!((queue.bytes(), queue.is_empty()), (model.len(), model.is_empty()));
        check_front(&queue, &model);
    }
    queue.clear(&mut pool, &mut released);
    assert_eq!(released.len(), lent.order.len(), "every owner comes back");
}

fn places(queue: &SegmentQueue) -> Vec<(usize, usize)> {
    let mut slices = [IoSlice::new(&[]); SegmentQueue::MAX_IOVECS];
    let count = count_of(queue.run(0, &mut slices));
    slices[..count].iter().map(|slice| (slice.as_ptr() as usize, slice.len())).collect()
}

fn count_of(run: Run<'_>) -> usize {
    match run {
        Run::Slices { count, .. } => count,
        Run::Nothing => 0,
        Run::File(_) => unreachable!("no file was queued"),
    }
}

fn check_front(queue: &SegmentQueue, model: &VecDeque<u8>) {
    let mut slices = [IoSlice::new(&[]); SegmentQueue::MAX_IOVECS];
    let count = count_of(queue.run(0, &mut slices));
    let offered = slices[..count].iter().flat_map(|slice| slice.iter());
    assert!(offered.clone().next().is_some() || model.is_empty(), "bytes are queued and none is offered");
    // The front is what leaves next; the rest comes to the front in its time.
    assert!(offered.zip(model).take(300).all(|(sent, known)| sent == known), "the bytes, in order");
    if let Some(single) = queue.as_single() {
        assert_eq!(single.len(), model.len());
    }
}

fn check_arena(input: &mut Input<'_>) {
    let mut arena = TurnArena::with_capacity(4096 + input.up_to(64) * 64);
    let capacity = arena.room();
    let mut leases = Vec::new();
    while !input.is_empty() {
        let operation = input.byte();
        if operation > 240 {
            arena.reset();
            leases.clear();
            assert_eq!(arena.room(), capacity);
            continue;
        }
        let piece = input.piece();
        let (start, room) = arena.spare(piece.len());
        assert!(room <= piece.len() && room <= arena.room());
        // SAFETY: `room` bytes are there, and all of them are written before the commit.
        let lease = unsafe {
            std::ptr::copy_nonoverlapping(piece.as_ptr(), start, room);
            arena.commit(room)
        };
        leases.push((lease, &piece[..room]));
        for (lease, bytes) in &leases {
            // SAFETY: not reset since.
            assert_eq!(unsafe { lease.as_slice() }, *bytes, "a lease was written over");
        }
        let cut = input.up_to(room);
        // SAFETY: not reset since.
        assert_eq!(unsafe { lease.slice(cut..room).as_slice() }, &piece[cut..room]);
    }
}
