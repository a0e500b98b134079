//! An Outbox is what one socket has to send: datagrams in order, bounded. A Sender offers them to the kernel, many to a
//! call; runs of the same size to the same peer leave as one (GSO), which the kernel cuts up where that is cheapest.
//!
//! Every datagram that does not leave is told, by a [`SendFailure`].

use std::net::IpAddr;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::{io, mem, ptr};

use super::super::inet_address::RawAddress;
use super::PeerAddress;
use super::control::Written;

/// Messages in one `sendmmsg`.
const MAX_MESSAGES: usize = 64;
/// Calls in one flush: whoever has more to say takes turns with the others.
const MAX_CALLS: usize = 16;
/// Datagrams that may leave as one (UDP_MAX_SEGMENTS of older kernels).
const MAX_SEGMENTS: usize = 64;
/// Their bytes together, which must be less than an IP packet can hold.
const MAX_SEGMENTED_BYTES: usize = 65_000;
/// What is worth sorting by whom it goes to: it is copied.
const MAX_REGROUPED: usize = 1_024;
const MAX_REGROUPED_BYTES: usize = 256 * 1024;
/// A segment must fit the path's packets, and nearly every path has these.
const MAX_SEGMENT_BYTES: usize = 1_400;

/// Where a run of datagrams goes.
#[derive(Clone)]
pub struct Destination {
    /// `None`: to whom the socket is connected.
    name: Option<RawAddress>,
    local: Option<IpAddr>,
    /// The caller's own word for it, which failures come back with.
    tag: u64,
}

impl Destination {
    pub fn connected() -> Self {
        Destination { name: None, local: None, tag: 0 }
    }

    pub fn peer(peer: &PeerAddress, tag: u64) -> io::Result<Self> {
        Ok(Destination { name: Some(RawAddress::try_from(&peer.address)?), local: peer.local, tag })
    }
}

/// Datagrams one after the other to the same destination.
struct Stretch {
    tag: u64,
    destination: u32,
    entries: Range<usize>,
    bytes: Range<usize>,
}

#[derive(Clone, Copy)]
struct Entry {
    destination: u32,
    bytes: u32,
}

/// Datagrams in the order in which they leave.
#[derive(Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    destinations: Vec<Destination>,
    /// What has left: so many entries, of so many bytes.
    sent_entries: usize,
    sent_bytes: usize,
    /// The entries up to here leave one by one: as a run they did not fit the path.
    singly_until: usize,
    /// The first of them was refused once, by what may have been an earlier one's error.
    tried_again: bool,
}

impl Outbox {
    /// Datagrams that wait.
    pub fn len(&self) -> usize {
        self.entries.len() - self.sent_entries
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes.len() - self.sent_bytes
    }

    /// Append a datagram to whom the last one was for, if `is_same` says so of its tag; else to `destination()`.
    pub fn push(
        &mut self,
        datagram: &[u8],
        tag: u64,
        destination: impl FnOnce() -> io::Result<Destination>,
    ) -> io::Result<()> {
        if self.destinations.last().is_none_or(|last| last.tag != tag) {
            self.destinations.push(destination()?);
        }
        let destination = (self.destinations.len() - 1) as u32;
        self.bytes.extend_from_slice(datagram);
        self.entries.push(Entry { destination, bytes: datagram.len() as u32 });
        Ok(())
    }

    /// So many entries are done with, sent or not.
    fn advance(&mut self, entries: usize) {
        let done = &self.entries[self.sent_entries..self.sent_entries + entries];
        self.sent_bytes += done.iter().map(|entry| entry.bytes as usize).sum::<usize>();
        self.sent_entries += entries;
        self.tried_again = false;
        if self.sent_entries == self.entries.len() {
            self.clear();
        } else if self.sent_entries >= 1024 && self.sent_entries >= self.entries.len() / 2 {
            self.compact();
        }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
        self.destinations.clear();
        (self.sent_entries, self.sent_bytes, self.singly_until) = (0, 0, 0);
    }

    /// Forget what has left, in front of what waits.
    fn compact(&mut self) {
        self.bytes.drain(..self.sent_bytes);
        self.entries.drain(..self.sent_entries);
        let first = self.entries[0].destination;
        self.destinations.drain(..first as usize);
        self.entries.iter_mut().for_each(|entry| entry.destination -= first);
        self.singly_until = self.singly_until.saturating_sub(self.sent_entries);
        (self.sent_entries, self.sent_bytes) = (0, 0);
    }

    /// Bring what goes to one peer together, so that it leaves as one: answers to a turn's datagrams are in the order in
    /// which those came. Each peer's own order stays.
    fn regroup(&mut self, scratch: &mut Scratch) {
        let is_worth_it = self.destinations.len() > 2 && self.singly_until <= self.sent_entries && !self.tried_again;
        if !is_worth_it || self.len() > MAX_REGROUPED || self.bytes() > MAX_REGROUPED_BYTES {
            return;
        }
        self.stretches(&mut scratch.stretches);
        scratch.stretches.sort_by_key(|stretch| stretch.tag);
        scratch.clear();
        for stretch in &scratch.stretches {
            if scratch.destinations.last().is_none_or(|last| last.tag != stretch.tag) {
                scratch.destinations.push(self.destinations[stretch.destination as usize].clone());
            }
            let destination = (scratch.destinations.len() - 1) as u32;
            let entries = self.entries[stretch.entries.clone()].iter();
            scratch.entries.extend(entries.map(|entry| Entry { destination, ..*entry }));
            scratch.bytes.extend_from_slice(&self.bytes[stretch.bytes.clone()]);
        }
        mem::swap(&mut self.destinations, &mut scratch.destinations);
        mem::swap(&mut self.entries, &mut scratch.entries);
        mem::swap(&mut self.bytes, &mut scratch.bytes);
        (self.sent_entries, self.sent_bytes, self.singly_until) = (0, 0, 0);
    }

    fn stretches(&self, found: &mut Vec<Stretch>) {
        found.clear();
        let mut end = self.sent_bytes;
        for (at, entry) in self.entries.iter().enumerate().skip(self.sent_entries) {
            let start = end;
            end += entry.bytes as usize;
            match found.last_mut().filter(|last| last.destination == entry.destination) {
                Some(last) => (last.entries.end, last.bytes.end) = (at + 1, end),
                None => {
                    let (destination, tag) = (entry.destination, self.destinations[entry.destination as usize].tag);
                    found.push(Stretch { tag, destination, entries: at..at + 1, bytes: start..end });
                }
            }
        }
    }

    /// How many entries from `at` on can leave as one.
    fn run(&self, at: usize, may_segment: bool) -> usize {
        let first = self.entries[at];
        let size = first.bytes as usize;
        if !may_segment || at < self.singly_until || size == 0 || size > MAX_SEGMENT_BYTES {
            return 1;
        }
        let most = MAX_SEGMENTS.min(MAX_SEGMENTED_BYTES / size);
        let rest = &self.entries[at + 1..self.entries.len().min(at + most)];
        let same = rest.iter().take_while(|next| next.destination == first.destination && next.bytes == first.bytes);
        let count = 1 + same.count();
        // A shorter one may end the run.
        let last = self.entries.get(at + count).filter(|_| count < most);
        let ends = last
            .is_some_and(|last| last.destination == first.destination && last.bytes < first.bytes && last.bytes > 0);
        count + usize::from(ends)
    }
}

/// Datagrams that did not leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendFailure {
    pub tag: u64,
    pub errno: i32,
    /// None: the error was that of datagrams that have left earlier.
    pub lost: usize,
}

/// Why a flush ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushEnd {
    Empty,
    /// The kernel takes no more until the socket is writable.
    Blocked,
    /// It was a turn's share; more waits.
    Share,
}

/// Where an outbox is sorted.
#[derive(Default)]
struct Scratch {
    stretches: Vec<Stretch>,
    destinations: Vec<Destination>,
    entries: Vec<Entry>,
    bytes: Vec<u8>,
}

impl Scratch {
    fn clear(&mut self) {
        self.destinations.clear();
        self.entries.clear();
        self.bytes.clear();
    }
}

/// The arrays of `sendmmsg`, for any socket.
pub struct Sender {
    headers: Box<[libc::mmsghdr; MAX_MESSAGES]>,
    iovecs: Box<[libc::iovec; MAX_MESSAGES]>,
    controls: Box<[Written; MAX_MESSAGES]>,
    /// Entries that each message of the call is made of.
    runs: [usize; MAX_MESSAGES],
    failures: Vec<SendFailure>,
    scratch: Scratch,
    /// Datagrams that have left.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
}

// SAFETY: the pointers in the arrays are written before each call, and are of no use after it.
unsafe impl Send for Sender {}

impl Default for Sender {
    fn default() -> Self {
        // SAFETY: these are plain data of the kernel's, for which zeroes are a value.
        let (headers, iovecs) = unsafe { (mem::zeroed(), mem::zeroed()) };
        Sender {
            headers: Box::new(headers),
            iovecs: Box::new(iovecs),
            controls: Box::new([Written::EMPTY; MAX_MESSAGES]),
            runs: [0; MAX_MESSAGES],
            failures: Vec::new(),
            scratch: Scratch::default(),
            sent: 0,
            sent_bytes: 0,
        }
    }
}

impl Sender {
    /// What did not leave since this was last asked.
    pub fn take_failures(&mut self) -> Vec<SendFailure> {
        mem::take(&mut self.failures)
    }

    pub fn has_failures(&self) -> bool {
        !self.failures.is_empty()
    }

    /// Offer what waits to the kernel. `gso` is turned off when the path turns out not to have it.
    pub fn flush(&mut self, socket: impl AsFd, outbox: &mut Outbox, connected: bool, gso: &mut bool) -> FlushEnd {
        let fd = socket.as_fd().as_raw_fd();
        if *gso {
            outbox.regroup(&mut self.scratch);
        }
        for _ in 0..MAX_CALLS {
            if outbox.is_empty() {
                return FlushEnd::Empty;
            }
            let messages = self.fill(outbox, *gso);
            // SAFETY: so many headers were filled; what they point to lives in `self` and in the outbox.
            let sent = unsafe {
                let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
                libc::sendmmsg(fd, self.headers.as_mut_ptr(), messages as _, flags as _)
            };
            match usize::try_from(sent) {
                Ok(sent) => self.count_sent(outbox, sent),
                Err(_) => {
                    let errno = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
                    if errno == libc::EAGAIN {
                        return FlushEnd::Blocked;
                    }
                    self.fail_first(outbox, errno, connected, gso);
                }
            }
        }
        if outbox.is_empty() { FlushEnd::Empty } else { FlushEnd::Share }
    }

    fn count_sent(&mut self, outbox: &mut Outbox, messages: usize) {
        let entries = self.runs[..messages].iter().sum::<usize>();
        let waiting = outbox.bytes();
        outbox.advance(entries);
        self.sent += entries as u64;
        self.sent_bytes += (waiting - outbox.bytes()) as u64;
    }

    /// Make messages of the entries in front; returns how many.
    fn fill(&mut self, outbox: &mut Outbox, gso: bool) -> usize {
        let (mut entry, mut start, mut messages) = (outbox.sent_entries, outbox.sent_bytes, 0);
        while messages < MAX_MESSAGES && entry < outbox.entries.len() {
            let run = outbox.run(entry, gso);
            let entries = &outbox.entries[entry..entry + run];
            let bytes = entries.iter().map(|entry| entry.bytes as usize).sum::<usize>();
            let destination = &outbox.destinations[entries[0].destination as usize];
            let control = &mut self.controls[messages];
            *control = Written::EMPTY;
            if run > 1 {
                control.push_segment_bytes(entries[0].bytes as u16);
            }
            if let Some(local) = destination.local {
                control.push_local(local);
            }
            let slice = &outbox.bytes[start..start + bytes];
            self.iovecs[messages] = libc::iovec { iov_base: slice.as_ptr().cast_mut().cast(), iov_len: bytes };
            let header = &mut self.headers[messages].msg_hdr;
            (header.msg_name, header.msg_namelen) = match &destination.name {
                Some(name) => (name.as_ptr().cast_mut().cast(), name.length()),
                None => (ptr::null_mut(), 0),
            };
            header.msg_iov = &mut self.iovecs[messages];
            header.msg_iovlen = 1;
            header.msg_controllen = control.length() as _;
            header.msg_control = if control.length() > 0 { control.as_mut_ptr() } else { ptr::null_mut() };
            self.runs[messages] = run;
            (entry, start, messages) = (entry + run, start + bytes, messages + 1);
        }
        messages
    }

    /// The first message was refused: find out what to do about it.
    fn fail_first(&mut self, outbox: &mut Outbox, errno: i32, connected: bool, gso: &mut bool) {
        let run = self.runs[0];
        if errno == libc::EINTR {
            return;
        }
        if run > 1 && matches!(errno, libc::EMSGSIZE | libc::EINVAL | libc::EIO | libc::EOPNOTSUPP) {
            // Too large for the path's packets, or for a device that cannot cut it up.
            *gso &= errno == libc::EMSGSIZE;
            outbox.singly_until = outbox.sent_entries + run;
            return;
        }
        let tag = outbox.destinations[outbox.entries[outbox.sent_entries].destination as usize].tag;
        if connected && !outbox.tried_again {
            // A connected socket tells with the next call what has become of earlier ones.
            outbox.tried_again = true;
            if is_told_late(errno) {
                self.failures.push(SendFailure { tag, errno, lost: 0 });
            }
            return;
        }
        self.failures.push(SendFailure { tag, errno, lost: run });
        outbox.advance(run);
    }
}

/// Errors that come back from the network, after a send that went well.
fn is_told_late(errno: i32) -> bool {
    matches!(errno, libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EPROTO | libc::ENOPROTOOPT)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use proptest::prelude::*;

    use super::super::{PeerAddress, ReceiveBatch, prepare};
    use super::*;
    use crate::net::SocketAddress;

    fn pair() -> (UdpSocket, UdpSocket, PeerAddress) {
        let (one, other) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let peer = PeerAddress::from(SocketAddress::from(other.local_addr().unwrap()));
        (one, other, peer)
    }

    fn outbox_of(peer: &PeerAddress, sizes: &[usize]) -> Outbox {
        let mut outbox = Outbox::default();
        for (number, size) in sizes.iter().enumerate() {
            let datagram = vec![number as u8; *size];
            outbox.push(&datagram, 1, || Destination::peer(peer, 1)).unwrap();
        }
        outbox
    }

    /// Everything that waits at a socket, cut up if it came as one.
    fn received(socket: &UdpSocket) -> Vec<Vec<u8>> {
        let mut batch = ReceiveBatch::new(8, 65_535);
        let mut found = Vec::new();
        while batch.receive(socket).is_ok() {
            for at in 0..batch.len() {
                let message = batch.message(at);
                let parts = super::super::segments(message.bytes.len(), message.control.segment_bytes);
                found.extend(parts.map(|part| message.bytes[part].to_vec()));
            }
        }
        found
    }

    #[test]
    fn datagrams_arrive_as_they_were_queued_with_gso_and_without() {
        let sizes = [64, 64, 64, 10, 64, 0, 0, 1_400, 1_400, 9_000, 3, 3, 3];
        for (mut gso, gro) in [(true, true), (true, false), (false, true), (false, false)] {
            let (one, other, peer) = pair();
            prepare(&one).unwrap();
            if gro {
                prepare(&other).unwrap();
            }
            let mut outbox = outbox_of(&peer, &sizes);
            let mut sender = Sender::default();
            assert_eq!(sender.flush(&one, &mut outbox, false, &mut gso), FlushEnd::Empty);
            other.set_nonblocking(true).unwrap();
            let expected: Vec<Vec<u8>> =
                sizes.iter().enumerate().map(|(number, &size)| vec![number as u8; size]).collect();
            assert_eq!(received(&other), expected);
            assert_eq!((sender.sent, sender.has_failures()), (sizes.len() as u64, false));
        }
    }

    #[test]
    fn what_goes_to_one_peer_leaves_together_and_in_its_order() {
        let (one, first, first_peer) = pair();
        let (_, second, second_peer) = pair();
        prepare(&one).unwrap();
        let mut outbox = Outbox::default();
        for number in 0..6_u8 {
            let (tag, peer) = [(1, &first_peer), (2, &second_peer)][usize::from(number % 2)];
            outbox.push(&[number; 64], tag, || Destination::peer(peer, tag)).unwrap();
        }
        outbox.regroup(&mut Scratch::default());
        assert_eq!((outbox.run(0, true), outbox.run(3, true), outbox.len(), outbox.bytes()), (3, 3, 6, 6 * 64));
        assert_eq!(Sender::default().flush(&one, &mut outbox, false, &mut true), FlushEnd::Empty);
        for (socket, numbers) in [(first, [0, 2, 4]), (second, [1, 3, 5])] {
            socket.set_nonblocking(true).unwrap();
            assert_eq!(received(&socket), numbers.map(|number| vec![number; 64]));
        }
    }

    proptest! {
        #[test]
        fn regrouping_loses_nothing_and_keeps_each_peers_order(
            pushed in prop::collection::vec((0_u64..4, 0_usize..5), 0..60),
            sent in 0_usize..10,
        ) {
            let (_, _, peer) = pair();
            let mut outbox = Outbox::default();
            for (number, (tag, size)) in pushed.iter().enumerate() {
                outbox.push(&vec![number as u8; *size], *tag, || Destination::peer(&peer, *tag)).unwrap();
            }
            outbox.advance(sent.min(outbox.len()));
            let waiting = |outbox: &Outbox, tag: u64| {
                let (mut at, mut found) = (outbox.sent_bytes, Vec::new());
                for entry in &outbox.entries[outbox.sent_entries..] {
                    let end = at + entry.bytes as usize;
                    if outbox.destinations[entry.destination as usize].tag == tag {
                        found.push(outbox.bytes[at..end].to_vec());
                    }
                    at = end;
                }
                found
            };
            let before: Vec<_> = (0..4).map(|tag| waiting(&outbox, tag)).collect();
            let (len, bytes) = (outbox.len(), outbox.bytes());
            outbox.regroup(&mut Scratch::default());
            prop_assert_eq!((outbox.len(), outbox.bytes()), (len, bytes));
            // As `compact` relies on.
            prop_assert!(outbox.entries[outbox.sent_entries..].is_sorted_by_key(|entry| entry.destination));
            prop_assert_eq!((0..4).map(|tag| waiting(&outbox, tag)).collect::<Vec<_>>(), before);
            // What follows goes on as ever.
            outbox.push(b"more", 9, || Destination::peer(&peer, 9)).unwrap();
            prop_assert_eq!(waiting(&outbox, 9), vec![b"more".to_vec()]);
        }
    }

    #[test]
    fn what_is_too_long_is_told_and_what_follows_it_leaves() {
        let (one, other, peer) = pair();
        let mut outbox = outbox_of(&peer, &[5, 66_000, 6]);
        let mut sender = Sender::default();
        assert_eq!(sender.flush(&one, &mut outbox, false, &mut true), FlushEnd::Empty);
        assert_eq!(sender.take_failures(), [SendFailure { tag: 1, errno: libc::EMSGSIZE, lost: 1 }]);
        other.set_nonblocking(true).unwrap();
        assert_eq!(received(&other).iter().map(Vec::len).collect::<Vec<_>>(), [5, 6]);
    }

    #[test]
    fn a_connected_socket_tells_of_an_earlier_datagram_and_loses_none_that_follows() {
        let one = UdpSocket::bind("127.0.0.1:0").unwrap();
        let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        one.connect(nobody).unwrap();
        let mut sender = Sender::default();
        let mut outbox = Outbox::default();
        outbox.push(b"first", 0, || Ok(Destination::connected())).unwrap();
        assert_eq!(sender.flush(&one, &mut outbox, true, &mut false), FlushEnd::Empty);
        let other = UdpSocket::bind(nobody).unwrap();
        outbox.push(b"second", 0, || Ok(Destination::connected())).unwrap();
        assert_eq!(sender.flush(&one, &mut outbox, true, &mut false), FlushEnd::Empty);
        assert_eq!(sender.take_failures(), [SendFailure { tag: 0, errno: libc::ECONNREFUSED, lost: 0 }]);
        other.set_nonblocking(true).unwrap();
        assert_eq!(received(&other), [b"second"]);
    }

    #[test]
    fn a_full_peer_blocks_and_what_waits_leaves_later() {
        use std::os::unix::net::UnixDatagram;
        let (one, other) = UnixDatagram::pair().unwrap();
        one.set_nonblocking(true).unwrap();
        let mut sender = Sender::default();
        let mut outbox = Outbox::default();
        for number in 0..2_000_u32 {
            outbox.push(&number.to_ne_bytes(), 0, || Ok(Destination::connected())).unwrap();
        }
        assert_eq!(sender.flush(&one, &mut outbox, true, &mut false), FlushEnd::Blocked);
        let mut expected = 0_u32;
        let mut bytes = [0; 4];
        while expected < 2_000 {
            other.recv(&mut bytes).unwrap();
            assert_eq!(u32::from_ne_bytes(bytes), expected);
            expected += 1;
            sender.flush(&one, &mut outbox, true, &mut false);
        }
        assert!(outbox.is_empty() && outbox.bytes() == 0 && sender.sent == 2_000);
    }

    proptest! {
        #[test]
        fn runs_have_one_size_and_only_their_last_is_shorter(sizes in proptest::collection::vec(0_usize..2_000, 1..200)) {
            let outbox = outbox_of(&PeerAddress::from("127.0.0.1:9".parse::<SocketAddress>().unwrap()), &sizes);
            let mut at = 0;
            while at < sizes.len() {
                let run = outbox.run(at, true);
                prop_assert!((1..=MAX_SEGMENTS).contains(&run));
                let (last, before) = sizes[at..at + run].split_last().unwrap();
                prop_assert!(before.iter().all(|&size| size == sizes[at]) && *last <= sizes[at]);
                prop_assert!(run == 1 || (sizes[at] <= MAX_SEGMENT_BYTES && *last > 0));
                prop_assert!(sizes[at..at + run].iter().sum::<usize>() <= MAX_SEGMENTED_BYTES || run == 1);
                at += run;
            }
        }
    }
}
