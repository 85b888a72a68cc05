//! What an operator can ask of the classifier. On shard 0.

use super::learning::{self, Lesson};
use super::tokens::Tokens;
use crate::operations::Fault;
use crate::shard::Shard;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::rc::Rc;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "spam", rename_all = "snake_case")]
pub enum SpamRequest {
    /// What it says of each.
    Margins {
        messages: Vec<Tokens>,
    },
    Learn {
        lessons: Vec<Lesson>,
    },
}

pub(crate) async fn execute(shard: &Rc<Shard>, request: SpamRequest) -> Result<Value, Fault> {
    match request {
        SpamRequest::Margins { messages } => {
            let learned = shard.learned.borrow();
            let margins = messages.iter().map(|tokens| learned.classifier.margin(tokens));
            Ok(json!(margins.collect::<Vec<_>>()))
        }
        SpamRequest::Learn { lessons } => match learning::learn(shard, lessons).await {
            Ok(learned) => Ok(json!({ "learned": learned })),
            Err(error) => Err(error.to_string()),
        },
    }
}
