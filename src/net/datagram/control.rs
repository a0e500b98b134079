//! What the kernel tells beside a datagram, and is told: control messages (cmsg(3)), read and written as plain bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libc::c_int;

/// Room for all that a received datagram may come with.
pub(super) const RECEIVED_BYTES: usize = 128;
/// Room for what a sent one is told: the segments' size, and the address to leave from.
pub(super) const SENT_BYTES: usize = 64;

const ALIGNMENT: usize = size_of::<usize>();
/// A length, a level and a type.
const HEADER_BYTES: usize = size_of::<usize>() + 2 * size_of::<c_int>();

/// What came beside a datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// It is several datagrams of this size, of which the last may be shorter.
    pub segment_bytes: Option<usize>,
    /// The address of this machine to answer from.
    pub local: Option<IpAddr>,
    /// How many datagrams this socket has lost for want of room since it was made; counts modulo 2^32.
    pub dropped: Option<u32>,
}

impl Control {
    /// Read what the kernel wrote. What is unknown or malformed is passed over.
    pub fn parse(mut bytes: &[u8]) -> Self {
        let mut found = Control::default();
        while let Some((length, level, kind)) = header(bytes) {
            let Some(data) = bytes.get(HEADER_BYTES..length) else { break };
            match (level, kind) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    found.segment_bytes = word(data).and_then(|size| size.try_into().ok()).filter(|&size| size > 0);
                }
                (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => found.dropped = word(data).map(i32::cast_unsigned),
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => found.local = packet_info(data),
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => found.local = packet_info_v6(data),
                _ => {}
            }
            let next = length.next_multiple_of(ALIGNMENT);
            bytes = bytes.get(next..).unwrap_or_default();
        }
        found
    }
}

fn header(bytes: &[u8]) -> Option<(usize, c_int, c_int)> {
    let length = usize::from_ne_bytes(*bytes.first_chunk()?);
    let level = word(bytes.get(size_of::<usize>()..)?)?;
    let kind = word(bytes.get(size_of::<usize>() + size_of::<c_int>()..)?)?;
    (HEADER_BYTES..=bytes.len()).contains(&length).then_some((length, level, kind))
}

fn word(bytes: &[u8]) -> Option<c_int> {
    bytes.first_chunk().map(|bytes| c_int::from_ne_bytes(*bytes))
}

/// `in_pktinfo`: interface, the address to answer from, the address that was sent to. The first of the two is this
/// machine's even if the datagram went to a group.
fn packet_info(data: &[u8]) -> Option<IpAddr> {
    let octets: [u8; 4] = *data.get(4..)?.first_chunk()?;
    Some(Ipv4Addr::from(octets).into()).filter(|address: &IpAddr| !address.is_unspecified())
}

/// `in6_pktinfo`: the address that was sent to, interface. Nothing can be sent from a group's address.
fn packet_info_v6(data: &[u8]) -> Option<IpAddr> {
    let octets: [u8; 16] = *data.first_chunk()?;
    Some(Ipv6Addr::from(octets).into()).filter(|address: &IpAddr| !address.is_multicast())
}

/// Where in a buffer the datagrams are that came as one.
pub fn segments(bytes: usize, segment_bytes: Option<usize>) -> impl Iterator<Item = std::ops::Range<usize>> {
    let size = segment_bytes.unwrap_or(bytes).max(1);
    // A datagram may be empty, and is one all the same.
    (0..bytes.div_ceil(size).max(1)).map(move |index| index * size..bytes.min((index + 1) * size))
}

/// Control messages being written.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(super) struct Written {
    bytes: [u8; SENT_BYTES],
    length: usize,
}

impl Written {
    pub(super) const EMPTY: Written = Written { bytes: [0; SENT_BYTES], length: 0 };

    pub(super) fn as_mut_ptr(&mut self) -> *mut libc::c_void {
        self.bytes.as_mut_ptr().cast()
    }

    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// Cut what is sent into datagrams of this size.
    pub(super) fn push_segment_bytes(&mut self, size: u16) {
        self.push(libc::SOL_UDP, libc::UDP_SEGMENT, &size.to_ne_bytes());
    }

    /// Leave from this address.
    pub(super) fn push_local(&mut self, local: IpAddr) {
        match local {
            IpAddr::V4(address) => {
                let mut info = [0; size_of::<libc::in_pktinfo>()];
                info[4..8].copy_from_slice(&address.octets());
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            IpAddr::V6(address) => {
                let mut info = [0; size_of::<libc::in6_pktinfo>()];
                info[..16].copy_from_slice(&address.octets());
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
        }
    }

    fn push(&mut self, level: c_int, kind: c_int, data: &[u8]) {
        let length = HEADER_BYTES + data.len();
        let mut at = self.length;
        let mut put = |bytes: &[u8]| {
            self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&length.to_ne_bytes());
        put(&level.to_ne_bytes());
        put(&kind.to_ne_bytes());
        put(data);
        self.length += length.next_multiple_of(ALIGNMENT);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(level: c_int, kind: c_int, data: &[u8]) -> Vec<u8> {
        let mut written = Written::EMPTY;
        written.push(level, kind, data);
        written.bytes[..written.length].to_vec()
    }

    #[test]
    fn all_that_the_kernel_tells_is_found_in_any_order() {
        let mut info = [0; 12];
        info[4..8].copy_from_slice(&[127, 0, 0, 2]);
        let parts = [
            message(libc::SOL_UDP, libc::UDP_GRO, &64_i32.to_ne_bytes()),
            message(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &7_u32.to_ne_bytes()),
            message(libc::SOL_SOCKET, libc::SO_TIMESTAMP, &[1; 16]),
            message(libc::IPPROTO_IP, libc::IP_PKTINFO, &info),
        ];
        let expected = Control { segment_bytes: Some(64), local: Some([127, 0, 0, 2].into()), dropped: Some(7) };
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
            let bytes: Vec<u8> = order.iter().flat_map(|&at| parts[at].clone()).collect();
            assert_eq!(Control::parse(&bytes), expected);
        }
    }

    #[test]
    fn nobody_answers_from_a_group_or_from_nowhere() {
        let group: Ipv6Addr = "ff02::1".parse().unwrap();
        let mut info = [0; 20];
        info[..16].copy_from_slice(&group.octets());
        assert_eq!(Control::parse(&message(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info)).local, None);
        assert_eq!(Control::parse(&message(libc::IPPROTO_IP, libc::IP_PKTINFO, &[0; 12])).local, None);
    }

    #[test]
    fn both_messages_of_the_larger_kind_have_room() {
        let mut written = Written::EMPTY;
        written.push_segment_bytes(1_200);
        written.push_local("2001:db8::1".parse().unwrap());
        assert!(written.length() <= SENT_BYTES);
        assert_eq!(Control::parse(&written.bytes[..written.length]).local, Some("2001:db8::1".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = Control::parse(&bytes);
        }

        #[test]
        fn any_length_of_a_message_is_read_without_harm(
            lengths in proptest::collection::vec(0_usize..80, 1..6),
            level in prop_oneof![Just(libc::SOL_UDP), Just(libc::SOL_SOCKET), Just(libc::IPPROTO_IP), Just(libc::IPPROTO_IPV6)],
            kind in prop_oneof![Just(libc::UDP_GRO), Just(libc::SO_RXQ_OVFL), Just(libc::IP_PKTINFO), Just(libc::IPV6_PKTINFO)],
        ) {
            let mut bytes = Vec::new();
            for length in lengths {
                bytes.extend(length.to_ne_bytes());
                bytes.extend(level.to_ne_bytes());
                bytes.extend(kind.to_ne_bytes());
                bytes.extend([0xff; 8]);
            }
            let _ = Control::parse(&bytes);
        }

        #[test]
        fn segments_are_the_whole_in_order_and_only_the_last_is_shorter(
            bytes in 0_usize..70_000, size in proptest::option::of(1_usize..3_000),
        ) {
            let found: Vec<_> = segments(bytes, size).collect();
            prop_assert_eq!(found[0].start, 0);
            prop_assert_eq!(found[found.len() - 1].end, bytes);
            for pair in found.windows(2) {
                prop_assert_eq!(pair[0].end, pair[1].start);
                prop_assert_eq!(pair[0].len(), size.unwrap_or(bytes));
                prop_assert!(!pair[1].is_empty() && pair[1].len() <= pair[0].len());
            }
        }
    }
}
