//! Many TCP connections at once.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use socket2::Type;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpSocket, TcpStream},
    runtime::{Builder, Runtime},
    time::{sleep, timeout},
};

use super::{
    client::{Reply, open, payload},
    netns::Entrance,
};

/// A TCP connection from a namespace, for asynchronous code.
#[derive(Debug)]
pub struct AsyncTcp {
    stream: BufReader<TcpStream>,
    limit: Duration,
}

impl AsyncTcp {
    /// Connects; `limit` holds for the connection and for each exchange.
    ///
    /// # Errors
    /// As [`super::Exchange::run`].
    pub async fn connect(netns: &Entrance, to: SocketAddr, limit: Duration) -> io::Result<Self> {
        let socket = netns.run(|| open(to, Type::STREAM, None))?;
        socket.set_nonblocking(true)?;
        let socket = TcpSocket::from_std_stream(socket.into());
        let stream = timeout(limit, socket.connect(to)).await??;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::new(stream),
            limit,
        })
    }

    /// Sends a line and checks that it comes back.
    ///
    /// # Errors
    /// As [`super::TcpClient::exchange`].
    pub async fn exchange(&mut self, payload: &[u8]) -> io::Result<Reply> {
        timeout(self.limit, self.exchange_slowly(payload)).await?
    }

    async fn exchange_slowly(&mut self, payload: &[u8]) -> io::Result<Reply> {
        let line = [payload, b"\n"].concat();
        let mut reply = Vec::new();
        self.stream.write_all(&line).await?;
        self.stream.read_until(b'\n', &mut reply).await?;
        if reply.pop() != Some(b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Reply::parse(&reply)?.verify(payload)
    }
}

/// The shape of a [`Load`].
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Connections that are opened at the start and transfer until the end.
    pub kept: usize,
    /// Tasks that open a connection, use it once and close it, all the time.
    pub fresh: usize,
    /// Bytes each way of one exchange.
    pub payload: usize,
    /// Rest of each task between two exchanges.
    pub pause: Duration,
    /// Longest time that a connection or an exchange may take.
    pub limit: Duration,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            kept: 200,
            fresh: 4,
            payload: 4096,
            pause: Duration::from_millis(20),
            limit: Duration::from_secs(3),
        }
    }
}

/// What a load has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Connections opened.
    pub connections: u64,
    /// Requests answered in full.
    pub exchanges: u64,
    /// One line for each connection that failed or broke.
    pub failures: Vec<String>,
}

/// A load that runs until it is stopped or dropped.
#[derive(Debug)]
pub struct Load {
    runtime: Option<Runtime>,
    state: Arc<State>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    netns: Entrance,
    to: SocketAddr,
    options: LoadOptions,
    stop: AtomicBool,
    connections: AtomicU64,
    exchanges: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Load {
    /// Starts the load from a namespace to a lab server or a frontend.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(netns: &Entrance, to: SocketAddr, options: LoadOptions) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("lab-load")
            .enable_all()
            .build()?;
        let state = Arc::new(State {
            netns: netns.clone(),
            to,
            options,
            stop: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            exchanges: AtomicU64::new(0),
            failures: Mutex::default(),
        });
        let kept = (0..state.options.kept).map(|_| runtime.spawn(Arc::clone(&state).keep()));
        let mut tasks: Vec<_> = kept.collect();
        let fresh = (0..state.options.fresh).map(|_| runtime.spawn(Arc::clone(&state).renew()));
        tasks.extend(fresh);
        Ok(Self {
            runtime: Some(runtime),
            state,
            tasks,
        })
    }

    /// What was done so far.
    #[must_use]
    pub fn report(&self) -> LoadReport {
        let failures = self.state.failures.lock();
        LoadReport {
            connections: self.state.connections.load(Ordering::Relaxed),
            exchanges: self.state.exchanges.load(Ordering::Relaxed),
            failures: failures.unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Waits up to `limit` until the report satisfies `is_reached`, and says
    /// whether it does.
    #[must_use]
    pub fn wait_for(&self, limit: Duration, is_reached: impl Fn(&LoadReport) -> bool) -> bool {
        let deadline = Instant::now() + limit;
        while !is_reached(&self.report()) {
            if Instant::now() > deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(10));
        }
        true
    }

    /// Lets each exchange end and says what was done. Not for asynchronous code.
    #[must_use]
    pub fn stop(mut self) -> LoadReport {
        self.state.stop.store(true, Ordering::Relaxed);
        if let Some(runtime) = self.runtime.take() {
            for task in self.tasks.drain(..) {
                if let Err(error) = runtime.block_on(task) {
                    self.state.fail(&error);
                }
            }
            runtime.shutdown_background();
        }
        self.report()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl State {
    async fn keep(self: Arc<Self>) {
        if let Err(error) = self.hold_one().await {
            self.fail(&error);
        }
    }

    async fn hold_one(&self) -> io::Result<()> {
        let payload = payload(self.options.payload);
        let mut connection = self.connect().await?;
        while !self.is_over() {
            self.exchange(&mut connection, &payload).await?;
            sleep(self.options.pause).await;
        }
        Ok(())
    }

    async fn renew(self: Arc<Self>) {
        let payload = payload(self.options.payload);
        while !self.is_over() {
            if let Err(error) = self.use_one(&payload).await {
                self.fail(&error);
            }
            sleep(self.options.pause).await;
        }
    }

    async fn use_one(&self, payload: &[u8]) -> io::Result<()> {
        let mut connection = self.connect().await?;
        self.exchange(&mut connection, payload).await
    }

    async fn connect(&self) -> io::Result<AsyncTcp> {
        let connection = AsyncTcp::connect(&self.netns, self.to, self.options.limit).await?;
        self.connections.fetch_add(1, Ordering::Relaxed);
        Ok(connection)
    }

    async fn exchange(&self, connection: &mut AsyncTcp, payload: &[u8]) -> io::Result<()> {
        connection.exchange(payload).await?;
        self.exchanges.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn fail(&self, error: &dyn std::error::Error) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.push(error.to_string());
    }
}
