//! Listening: connections in, within limits, until the server is asked to end; then those that are there may finish.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use lathe_engine::Forward;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

use crate::app::router;
use crate::error::ServeError;
use crate::service::{EmbeddingModel, Service, Settings, TextModel};
use crate::tls::acceptor;

/// How long a client may take to send a request's head.
const HEAD: Duration = Duration::from_secs(10);

/// Serves models until the process is asked to end (SIGTERM, Ctrl-C), then lets requests finish. `ready` is told the address.
pub fn serve<F: Forward + Send + 'static>(
    text: Option<TextModel<F>>,
    embedding: Option<EmbeddingModel>,
    settings: Settings,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build();
    let tls = settings.tls.as_ref().map(|(certificate, key)| acceptor(certificate, key)).transpose()?;
    let service = Service::new(text, embedding, settings)?;
    runtime.map_err(ServeError::Start)?.block_on(async move {
        let settings = service.settings.clone();
        let listener = TcpListener::bind(settings.address).await.map_err(ServeError::Listen)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Start)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Start)?;
        ready(listener.local_addr().map_err(ServeError::Listen)?);
        let router = router(service.clone());
        let connections = Arc::new(Semaphore::new(settings.connections));
        let graceful = GracefulShutdown::new();
        loop {
            let permit = connections.clone().acquire_owned();
            let accepted = async {
                // The semaphore is never closed.
                let Ok(permit) = permit.await else { return pending().await };
                (listener.accept().await, permit)
            };
            let (accepted, permit) = tokio::select! {
                accepted = accepted => accepted,
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            };
            let Ok((socket, _)) = accepted else {
                // The system has no more sockets to give; it will.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            // Tokens are small and should not wait for each other.
            let _ = socket.set_nodelay(true);
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEAD).max_headers(64);
            let service = TowerToHyperService::new(router.clone());
            let (tls, watcher) = (tls.clone(), graceful.watcher());
            tokio::spawn(async move {
                // How a connection ended is its client's business.
                match tls {
                    None => {
                        let _ = watcher.watch(server.serve_connection(TokioIo::new(socket), service)).await;
                    }
                    Some(tls) => {
                        if let Ok(Ok(socket)) = tokio::time::timeout(HEAD, tls.accept(socket)).await {
                            let socket = TokioIo::new(socket);
                            let _ = watcher.watch(server.serve_connection(socket, service)).await;
                        }
                    }
                }
                drop(permit);
            });
        }
        drop(listener);
        service.draining.store(true, SeqCst);
        tokio::select! {
            () = graceful.shutdown() => {}
            () = tokio::time::sleep(settings.drain) => {}
        }
        Ok(())
    })
}
