//! A TCP relay between two servers, which can be slow, and cut as a network is: nobody is told, nothing gets through.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Bytes that are delayed together.
const PIECE_BYTES: usize = 16 << 10;
/// How often a connection that is cut looks whether it is whole again.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// A relay to one address. It ends with the test program.
pub struct Relay {
    pub port: u16,
    link: Arc<Link>,
}

#[derive(Default)]
struct Link {
    delay_ms: AtomicU64,
    is_cut: AtomicBool,
}

impl Relay {
    /// A relay to this port of this machine.
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Self { port: listener.local_addr().unwrap().port(), link: Arc::default() };
        let (link, target) = (relay.link.clone(), SocketAddr::from(([127, 0, 0, 1], port)));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let link = link.clone();
                std::thread::spawn(move || carry(stream, target, &link));
            }
        });
        relay
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Each piece of each direction takes so long from now on.
    pub fn delay(&self, each: Duration) {
        self.link.delay_ms.store(each.as_millis() as u64, Ordering::SeqCst);
    }

    /// Nothing gets through until it is [`healed`](Self::heal); what is on its way arrives then.
    pub fn cut(&self) {
        self.link.is_cut.store(true, Ordering::SeqCst);
    }

    pub fn heal(&self) {
        self.link.is_cut.store(false, Ordering::SeqCst);
    }
}

impl Link {
    fn wait_until_whole(&self) {
        while self.is_cut.load(Ordering::SeqCst) {
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    /// Takes bytes from one side to the other until there are no more.
    fn pump(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let count = from.read(&mut piece).unwrap_or(0);
            std::thread::sleep(Duration::from_millis(self.delay_ms.load(Ordering::SeqCst)));
            self.wait_until_whole();
            if count == 0 || to.write_all(&piece[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }
}

fn carry(client: TcpStream, target: SocketAddr, link: &Arc<Link>) {
    link.wait_until_whole();
    let Ok(server) = TcpStream::connect(target) else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone()) else { return };
    let back = link.clone();
    let answers = std::thread::spawn(move || back.pump(server_too, client_too));
    link.pump(client, server);
    let _ = answers.join();
}
