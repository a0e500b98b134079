//! A Slab holds a reactor's channels by index. It owns them; a Token outlives its tenant without harm.
//!
//! It grows by mapping whole chunks, so nothing moves, no doubling wastes half, and a chunk's pages become
//! resident only as slots are first used. Free slots are used again last-in first-out, while still warm.

use std::mem::MaybeUninit;
use std::ptr::NonNull;

use super::token::Token;

const SLOTS_PER_CHUNK: usize = 4096;
const OCCUPIED: u32 = u32::MAX;
const END_OF_LIST: u32 = u32::MAX - 1;

struct Slot<T> {
    generation: u32,
    /// `OCCUPIED`, or the next free slot's index.
    next_free: u32,
    value: MaybeUninit<T>,
}

pub struct Slab<T> {
    chunks: Vec<NonNull<Slot<T>>>,
    /// Slots handed out at least once; those above have never been touched.
    touched: u32,
    free: u32,
    len: usize,
}

// SAFETY: the slab owns its slots; the raw pointers are not shared.
unsafe impl<T: Send> Send for Slab<T> {}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { chunks: Vec::new(), touched: 0, free: END_OF_LIST, len: 0 }
    }
}

impl<T> Slab<T> {
    /// Bytes that one tenant costs.
    pub const SLOT_BYTES: usize = size_of::<Slot<T>>();

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Every tenant's index is below this.
    pub fn touched(&self) -> u32 {
        self.touched
    }

    fn slot(&self, index: u32) -> Option<*mut Slot<T>> {
        if index >= self.touched {
            return None;
        }
        let chunk = self.chunks[index as usize / SLOTS_PER_CHUNK];
        // SAFETY: index < touched, so its chunk exists and the offset is inside it.
        Some(unsafe { chunk.as_ptr().add(index as usize % SLOTS_PER_CHUNK) })
    }

    fn occupied(&self, token: Token) -> Option<*mut Slot<T>> {
        let slot = self.slot(token.index)?;
        // SAFETY: a touched slot's generation and next_free are initialised.
        unsafe { ((*slot).generation == token.generation && (*slot).next_free == OCCUPIED).then_some(slot) }
    }

    pub fn insert(&mut self, value: T) -> Token {
        let index = if self.free != END_OF_LIST { self.free } else { self.touch() };
        let slot = self.slot(index).expect("a free slot is a touched one");
        // SAFETY: the slot is free, hence holds no value; its header is initialised.
        unsafe {
            if self.free == index {
                self.free = (*slot).next_free;
            }
            (*slot).next_free = OCCUPIED;
            (*slot).value.write(value);
            self.len += 1;
            Token::new(index, (*slot).generation)
        }
    }

    fn touch(&mut self) -> u32 {
        let index = self.touched;
        assert!(index < END_OF_LIST, "a slab holds at most {END_OF_LIST} tenants");
        if index as usize == self.chunks.len() * SLOTS_PER_CHUNK {
            self.chunks.push(map_chunk());
        }
        self.touched += 1;
        let slot = self.slot(index).expect("just touched");
        // SAFETY: inside its chunk, and ours to write.
        unsafe { (&raw mut (*slot).generation).write(0) };
        index
    }

    pub fn get(&self, token: Token) -> Option<&T> {
        // SAFETY: an occupied slot holds a value; &self keeps it there.
        self.occupied(token).map(|slot| unsafe { (*slot).value.assume_init_ref() })
    }

    pub fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        // SAFETY: an occupied slot holds a value; &mut self makes the reference unique.
        self.occupied(token).map(|slot| unsafe { (*slot).value.assume_init_mut() })
    }

    /// The tenant at `index`, whatever its generation (for the timer wheel's links).
    pub fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        let slot = self.slot(index)?;
        // SAFETY: as in get_mut; a touched slot's header is initialised.
        unsafe { ((*slot).next_free == OCCUPIED).then(|| (*slot).value.assume_init_mut()) }
    }

    pub fn token_at(&self, index: u32) -> Option<Token> {
        let slot = self.slot(index)?;
        // SAFETY: a touched slot's header is initialised.
        unsafe { ((*slot).next_free == OCCUPIED).then(|| Token::new(index, (*slot).generation)) }
    }

    /// The tenant leaves; every token of it is stale from now on.
    pub fn remove(&mut self, token: Token) -> Option<T> {
        let slot = self.occupied(token)?;
        // SAFETY: occupied, so a value is there, and is read out exactly once.
        unsafe {
            let value = (*slot).value.assume_init_read();
            (*slot).generation = (*slot).generation.wrapping_add(1);
            (*slot).next_free = self.free;
            self.free = token.index;
            self.len -= 1;
            Some(value)
        }
    }

    /// Every tenant's token, for the rare sweeps (shutdown, status pages).
    pub fn tokens(&self) -> Vec<Token> {
        (0..self.touched).filter_map(|index| self.token_at(index)).collect()
    }
}

fn chunk_bytes<T>() -> usize {
    size_of::<Slot<T>>() * SLOTS_PER_CHUNK
}

fn map_chunk<T>() -> NonNull<Slot<T>> {
    assert!(align_of::<Slot<T>>() <= 4096);
    // SAFETY: an anonymous private mapping has no preconditions.
    let memory = unsafe {
        let (read_write, private) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        libc::mmap(std::ptr::null_mut(), chunk_bytes::<T>(), read_write, private, -1, 0)
    };
    assert!(memory != libc::MAP_FAILED, "out of memory: mmap: {}", std::io::Error::last_os_error());
    NonNull::new(memory.cast()).expect("mmap does not return null")
}

impl<T> Drop for Slab<T> {
    fn drop(&mut self) {
        for token in self.tokens() {
            self.remove(token);
        }
        for chunk in &self.chunks {
            // SAFETY: mapped by map_chunk with this length, and nothing points into it any more.
            unsafe { libc::munmap(chunk.as_ptr().cast(), chunk_bytes::<T>()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_token_does_not_reach_its_successor() {
        let mut slab = Slab::default();
        let first = slab.insert("first");
        assert_eq!(slab.remove(first), Some("first"));
        let second = slab.insert("second");
        assert_eq!(first.index, second.index);
        assert_eq!((slab.get(first), slab.get(second)), (None, Some(&"second")));
        assert_eq!(slab.remove(first), None);
    }

    #[test]
    fn tenants_stay_where_they_are_while_it_grows() {
        let mut slab = Slab::default();
        let first = slab.insert(Box::new(0_usize));
        let address = slab.get(first).map(std::ptr::from_ref);
        let tokens: Vec<_> = (1..3 * SLOTS_PER_CHUNK).map(|n| slab.insert(Box::new(n))).collect();
        assert_eq!(slab.get(first).map(std::ptr::from_ref), address);
        assert!(tokens.iter().enumerate().all(|(n, &token)| **slab.get(token).unwrap() == n + 1));
        assert_eq!(slab.len(), 3 * SLOTS_PER_CHUNK);
    }

    #[test]
    fn dropping_the_slab_drops_its_tenants_once() {
        let counted = std::rc::Rc::new(());
        let mut slab = Slab::default();
        let gone = slab.insert(counted.clone());
        slab.insert(counted.clone());
        slab.remove(gone);
        drop(slab);
        assert_eq!(std::rc::Rc::strong_count(&counted), 1);
    }
}
