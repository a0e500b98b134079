//! Which of this machine's addresses a connection came to: known from a listener, unless that listens on all of them.
//!
//! A connection of a wildcard listener is asked once, when somebody wants to know, and remembers the answer as an index:
//! a machine has few addresses, and a million connections need not carry one each.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use super::connection::PeerAddress;
use super::service::{HttpIo, HttpServer};
use crate::core::Token;
use crate::net;

/// Addresses that are remembered. Beyond them (a machine can own a whole IPv6 network) each request asks the kernel.
const MAX_REMEMBERED: usize = u8::MAX as usize;

/// An address of this machine that a connection came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalAddress {
    pub ip: IpAddr,
    pub port: u16,
    /// The same number for the same address, to remember things by.
    pub index: Option<u8>,
}

#[derive(Default)]
pub(super) struct LocalAddresses {
    /// By a listener's number: whether it listens on every address.
    wildcards: Vec<bool>,
    known: Vec<(IpAddr, u16)>,
}

impl LocalAddresses {
    fn is_wildcard(&self, listener: u16) -> bool {
        self.wildcards.get(usize::from(listener)).copied().unwrap_or(false)
    }

    fn remember(&mut self, address: (IpAddr, u16)) -> LocalAddress {
        let known = self.known.iter().position(|known| *known == address);
        let index = known.or_else(|| {
            (self.known.len() < MAX_REMEMBERED).then(|| {
                self.known.push(address);
                self.known.len() - 1
            })
        });
        LocalAddress { ip: address.0, port: address.1, index: index.map(|index| index as u8) }
    }
}

impl HttpServer {
    /// Tell that a listener, by its number, listens on every address.
    pub fn note_wildcard_listener(&mut self, listener: u16) {
        let wildcards = &mut self.local_addresses.wildcards;
        wildcards.resize(wildcards.len().max(usize::from(listener) + 1), false);
        wildcards[usize::from(listener)] = true;
    }

    /// The address a connection came to, if its listener has more than one.
    pub fn local_address(&mut self, io: &mut HttpIo, token: Token) -> Option<LocalAddress> {
        let connection = io.http(token)?;
        let (listener, index) = (connection.listener, connection.local);
        if !self.local_addresses.is_wildcard(listener) {
            return None;
        }
        if index > 0 {
            let (ip, port) = self.local_addresses.known[usize::from(index) - 1];
            return Some(LocalAddress { ip, port, index: Some(index - 1) });
        }
        let fd = io.fd(token)?;
        // SAFETY: the channel of this token owns the descriptor, and is not closed within this call.
        let socket = unsafe { BorrowedFd::borrow_raw(fd) };
        let address = PeerAddress::from(net::local_address(socket).ok()?).internet()?;
        let local = self.local_addresses.remember(address);
        if let (Some(connection), Some(index)) = (io.http(token), local.index) {
            connection.local = index + 1;
        }
        Some(local)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_remembered_once_and_the_memory_is_bounded() {
        let mut addresses = LocalAddresses::default();
        let at = |number: u32| (IpAddr::from(number.to_be_bytes()), 80);
        assert_eq!(addresses.remember(at(1)).index, Some(0));
        assert_eq!(addresses.remember(at(2)).index, Some(1));
        assert_eq!(addresses.remember(at(1)).index, Some(0));
        for number in 0..1000 {
            addresses.remember(at(number));
        }
        assert_eq!(addresses.known.len(), MAX_REMEMBERED);
        assert_eq!(addresses.remember(at(5000)), LocalAddress { ip: at(5000).0, port: 80, index: None });
    }
}
