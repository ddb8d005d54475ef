//! Answers that come in pieces, as server-sent events.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use hyper::body::{Bytes, Frame};
use serde_json::Value;
use tokio::sync::mpsc;

/// Pieces that a slow client may lag behind; then the answer waits for it.
const LAG: usize = 64;

/// Where the pieces go.
pub(crate) struct Events(mpsc::Sender<Bytes>);

/// The client is gone.
pub(crate) struct Gone;

impl Events {
    /// Sends one object.
    pub(crate) async fn data(&self, value: &Value) -> Result<(), Gone> {
        self.send(format!("data: {value}\n\n")).await
    }

    /// Sends one object under a name, which it has as its type, too.
    pub(crate) async fn named(&self, value: &Value) -> Result<(), Gone> {
        self.send(format!("event: {}\ndata: {value}\n\n", value["type"].as_str().unwrap_or_default())).await
    }

    /// Says that there is no more, as OpenAI's interface does.
    pub(crate) async fn done(&self) -> Result<(), Gone> {
        self.send("data: [DONE]\n\n".to_owned()).await
    }

    async fn send(&self, text: String) -> Result<(), Gone> {
        self.0.send(text.into()).await.map_err(|_| Gone)
    }
}

/// A response whose events `work` makes; when the client goes away, `work` is dropped.
pub(crate) fn respond<W>(work: impl FnOnce(Events) -> W) -> Response
where
    W: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let (send, receive) = mpsc::channel(LAG);
    let closed = send.clone();
    let work = work(Events(send));
    tokio::spawn(async move {
        tokio::select! {
            _ = work => {}
            () = closed.closed() => {}
        }
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    (headers, Body::new(Pieces(receive))).into_response()
}

struct Pieces(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
