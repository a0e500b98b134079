use std::os::fd::RawFd;
pub struct A(Option<std::net::SocketAddr>);
impl A {
    pub fn internet(&self) -> Option<std::net::SocketAddr> {
        self.0
    }
}
pub fn peer_address(fd: RawFd) -> std::io::Result<A> {
    use std::os::fd::FromRawFd;
    let s = std::mem::ManuallyDrop::new(unsafe { std::net::TcpStream::from_raw_fd(fd) });
    Ok(A(s.peer_addr().ok()))
}
pub fn set_nonblocking(fd: RawFd, on: bool) -> std::io::Result<()> {
    use std::os::fd::FromRawFd;
    let s = std::mem::ManuallyDrop::new(unsafe { std::net::TcpStream::from_raw_fd(fd) });
    s.set_nonblocking(on)
}
pub fn set_nodelay(fd: RawFd) -> std::io::Result<()> {
    use std::os::fd::FromRawFd;
    let s = std::mem::ManuallyDrop::new(unsafe { std::net::TcpStream::from_raw_fd(fd) });
    s.set_nodelay(true)
}
