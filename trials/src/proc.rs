//! What the kernel says of a process.

use std::collections::HashSet;
use std::path::Path;

/// Processor time, in seconds, of a process, of all that it has started, and of those that have ended meanwhile.
pub fn processor_seconds(process: i32) -> f64 {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{process}/{file}")).unwrap_or_default();
    // After the name in parentheses, utime, stime, cutime and cstime are the fields 14 to 17, in hundredths on Linux.
    let stat = read("stat");
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    let own: f64 = fields.skip(11).take(4).filter_map(|field| field.parse::<f64>().ok()).sum();
    let children = read(&format!("task/{process}/children"));
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    own / 100.0 + children.map(processor_seconds).sum::<f64>()
}

/// Files and sockets that a process has open.
pub fn descriptors(process: i32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).map_or(0, Iterator::count)
}

/// Threads of a process.
pub fn threads(process: i32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/task")).map_or(0, Iterator::count)
}

/// A process's established connections to a local port.
pub fn connections(process: i32, port: u16) -> usize {
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{process}/fd")) else { return 0 };
    let links = descriptors.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let inodes: HashSet<String> = links.filter_map(|link| inode(&link)).collect();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let established = table.lines().filter_map(Socket::read).filter(|socket| socket.established);
    established.filter(|socket| socket.remote_port == port && inodes.contains(socket.inode)).count()
}

fn inode(link: &Path) -> Option<String> {
    Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
}

/// A line of /proc/net/tcp.
struct Socket<'a> {
    remote_port: u16,
    established: bool,
    inode: &'a str,
}

impl<'a> Socket<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let &[_, _, remote, state, _, _, _, _, _, inode, ..] = fields.as_slice() else { return None };
        let remote_port = u16::from_str_radix(remote.split_once(':')?.1, 16).ok()?;
        Some(Self { remote_port, established: state == "01", inode })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn an_open_connection_is_counted_and_a_closed_one_is_not() -> std::io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (port, own) = (listener.local_addr()?.port(), i32::try_from(std::process::id()).unwrap_or(0));
        let connection = TcpStream::connect(("127.0.0.1", port))?;
        assert_eq!(super::connections(own, port), 1);
        assert!(super::descriptors(own) >= 2);
        drop(connection);
        assert_eq!(super::connections(own, port), 0);
        Ok(())
    }
}
