//! The ACME client's way to its server: reqwest, which is here anyway.

use crate::relay::tls::Trust;
use axum::body::Body;
use bytes::Bytes;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

/// The longest answer: a chain of certificates.
const ANSWER_BYTES_MAX: usize = 1 << 20;
const TIMEOUT: Duration = Duration::from_secs(30);

pub struct Http(reqwest::Client);

impl Http {
    pub fn new(ca_file: Option<&PathBuf>) -> Result<Http, String> {
        let trust = Trust::valid(ca_file)?;
        reqwest::Client::builder()
            .tls_backend_preconfigured((*trust.config()).clone())
            .timeout(TIMEOUT)
            .build()
            .map(Http)
            .map_err(|error| error.to_string())
    }
}

impl HttpClient for Http {
    fn request(
        &self,
        request: axum::http::Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.0.clone();
        Box::pin(async move { exchange(client, request).await.map_err(Error::Other) })
    }
}

type Fault = Box<dyn std::error::Error + Send + Sync + 'static>;

async fn exchange(
    client: reqwest::Client,
    request: axum::http::Request<BodyWrapper<Bytes>>,
) -> Result<BytesResponse, Fault> {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(Body::new(body), ANSWER_BYTES_MAX).await?;
    let mut answer = client
        .request(parts.method, parts.uri.to_string())
        .headers(parts.headers)
        .body(body)
        .send()
        .await
        .map_err(|error| words(&error))?;
    let mut response = axum::http::Response::new(());
    *response.status_mut() = answer.status();
    *response.headers_mut() = answer.headers().clone();
    let mut octets = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(|error| words(&error))? {
        octets.extend_from_slice(&piece);
        if octets.len() > ANSWER_BYTES_MAX {
            return Err("the ACME server's answer is too long".into());
        }
    }
    let (parts, ()) = response.into_parts();
    Ok(BytesResponse { parts, body: Box::new(Bytes::from(octets)) })
}

/// The innermost cause says most.
fn words(error: &reqwest::Error) -> Fault {
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    format!("the ACME server can't be reached: {inner}").into()
}
