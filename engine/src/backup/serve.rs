//! The server's side of a backup: plans, then pieces, on one connection of the control socket. What
//! the plans hold is let go when the client hangs up, however it ends.

use super::source::{Plan, Reply, Walking, Wanted, What, plan_all};
use crate::mesh::ShardHandle;
use std::io;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Take};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

const LINE_BYTES_MAX: u64 = 4096;

pub async fn serve(
    handles: &[ShardHandle],
    mut lines: BufReader<Take<OwnedReadHalf>>,
    mut writer: OwnedWriteHalf,
) -> io::Result<()> {
    let plans = match plan_all(handles).await {
        Ok(plans) => plans,
        Err(fault) => return say(&mut writer, &Reply::<()>::Failed(fault)).await,
    };
    tracing::info!(shards = plans.len(), "a backup begins");
    say(&mut writer, &Reply::Done(plans.iter().map(Plan::of).collect::<Vec<_>>())).await?;
    let mut walking = Walking::default();
    loop {
        lines.get_mut().set_limit(LINE_BYTES_MAX);
        let mut line = String::new();
        if lines.read_line(&mut line).await? == 0 {
            tracing::info!("the backup is over: its command has ended, and says how");
            return Ok(());
        }
        let wanted: Wanted = match serde_json::from_str(&line) {
            Ok(wanted) => wanted,
            Err(error) => {
                let fault = format!("the server does not know this request: {error}");
                say(&mut writer, &Reply::<()>::Failed(fault)).await?;
                continue;
            }
        };
        let Some(handle) = handles.get(usize::from(wanted.shard)) else {
            let fault = format!("there is no shard {}", wanted.shard);
            say(&mut writer, &Reply::<()>::Failed(fault)).await?;
            continue;
        };
        match wanted.what {
            What::Rot { end } => {
                let rot = walking.rot(handle, wanted, end, true).await;
                say(&mut writer, &Reply::from(rot)).await?;
            }
            What::Bytes { from, bytes } => {
                match walking.read(handle, &plans, wanted, (from, bytes), true).await {
                    Ok(bytes) => {
                        say(&mut writer, &Reply::Done(bytes.len())).await?;
                        writer.write_all(&bytes).await?;
                    }
                    Err(fault) => say(&mut writer, &Reply::<()>::Failed(fault)).await?,
                }
            }
        }
    }
}

async fn say<T: serde::Serialize>(writer: &mut OwnedWriteHalf, reply: &Reply<T>) -> io::Result<()> {
    let mut text = serde_json::to_vec(reply).map_err(io::Error::other)?;
    text.push(b'\n');
    writer.write_all(&text).await
}
