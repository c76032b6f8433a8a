//! Attributes of an ONNX node.

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{AttributeProto, NodeProto};

/// The attributes of a node, asked for one by one; none may be left over.
pub(super) struct Attributes<'a> {
    left: Vec<&'a AttributeProto>,
}

impl<'a> Attributes<'a> {
    /// Those of `node`.
    pub fn of(node: &'a NodeProto) -> Self {
        Self { left: node.attribute.iter().collect() }
    }

    fn take(&mut self, name: &str, kind: AttributeType) -> Option<&'a AttributeProto> {
        let at = self.left.iter().position(|attribute| attribute.name == name && attribute.r#type == kind as i32)?;
        Some(self.left.swap_remove(at))
    }

    /// An integer.
    pub fn int(&mut self, name: &str) -> Option<i64> {
        self.take(name, AttributeType::Int).map(|attribute| attribute.i)
    }

    /// A list of integers, none of them negative.
    pub fn ints(&mut self, name: &str) -> Option<Vec<usize>> {
        let attribute = self.take(name, AttributeType::Ints)?;
        attribute.ints.iter().map(|&i| usize::try_from(i).ok()).collect()
    }

    /// A real number.
    pub fn float(&mut self, name: &str) -> Option<f32> {
        self.take(name, AttributeType::Float).map(|attribute| attribute.f)
    }

    /// Whether there is this text.
    pub fn is_text(&mut self, name: &str, text: &str) -> bool {
        self.take(name, AttributeType::String).is_some_and(|attribute| attribute.s == text.as_bytes())
    }

    /// Refuses what has not been asked for.
    pub fn finish(self) -> Result<(), String> {
        match self.left.first() {
            Some(attribute) => Err(format!("attribute {:?}", attribute.name)),
            None => Ok(()),
        }
    }
}
