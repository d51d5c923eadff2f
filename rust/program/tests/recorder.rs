//! What the recorder accepts, and that each refusal names what is wrong.
#![expect(
    clippy::unwrap_used,
    reason = "a test that unwraps says what it expects"
)]

use inferlib_program::program::{
    Activation, BufferId, KvLayer, Op, PooledRow, RopeId, Rows, WeightId,
};
use inferlib_program::{ProgramRecorder, RecordError};

/// A recorder with everything that one attention layer over rows of 8 needs, the embedding recorded.
struct Setup {
    recorder: ProgramRecorder,
    embed: WeightId,
    norm: WeightId,
    hidden: BufferId,
    qkv: BufferId,
    heads: BufferId,
    sampled: BufferId,
    logits: BufferId,
    rope: RopeId,
    kv: KvLayer,
}

fn setup() -> Setup {
    let mut recorder = ProgramRecorder::new();
    let embed = recorder.weight("embed", &[11, 8]).unwrap();
    let hidden = recorder.buffer("hidden", Rows::Tokens, 8).unwrap();
    let scale = 1.0;
    recorder
        .push(Op::Embedding {
            weight: embed,
            scale,
            out: hidden,
        })
        .unwrap();
    Setup {
        embed,
        norm: recorder.weight("norm", &[4]).unwrap(),
        hidden,
        qkv: recorder.buffer("qkv", Rows::Tokens, 16).unwrap(),
        heads: recorder.buffer("heads", Rows::Tokens, 8).unwrap(),
        sampled: recorder.buffer("sampled", Rows::Sampled, 8).unwrap(),
        logits: recorder.buffer("logits", Rows::Sampled, 11).unwrap(),
        rope: recorder.rope(vec![1.0, 0.5], 1.0).unwrap(),
        kv: recorder.kv_layer(1, 4, 4, None, false).unwrap(),
        recorder,
    }
}

impl Setup {
    /// Every op that follows the embedding, in an order that is right.
    fn rest(&mut self) -> Vec<Op> {
        let qkv_proj = self.recorder.weight("qkv_proj", &[16, 8]).unwrap();
        let bias = self.recorder.weight("qkv_bias", &[16]).unwrap();
        vec![
            Op::Linear {
                x: self.hidden,
                weight: qkv_proj,
                bias: Some(bias),
                out: self.qkv,
            },
            Op::RmsNorm {
                x: self.qkv,
                start: 0,
                len: 12,
                weight: self.norm,
                eps: 1e-6,
                out: self.qkv,
            },
            Op::Rope {
                x: self.qkv,
                start: 0,
                num_heads: 3,
                head_dim: 4,
                rope: self.rope,
            },
            Op::StoreKv {
                x: self.qkv,
                k_start: 8,
                v_start: 12,
                kv: self.kv,
            },
            Op::Attention {
                q: self.qkv,
                q_start: 0,
                num_heads: 2,
                kv: self.kv,
                scale: 0.5,
                softcap: Some(50.0),
                sinks: None,
                out: self.heads,
            },
            Op::Add {
                a: self.hidden,
                b: self.heads,
                out: self.hidden,
            },
            Op::ActAndMul {
                x: self.qkv,
                activation: Activation::Gelu,
                out: self.heads,
            },
            Op::GatherRows {
                x: self.hidden,
                out: self.sampled,
            },
            Op::LmHead {
                x: self.sampled,
                weight: self.embed,
                softcap: None,
                out: self.logits,
            },
            Op::Capture {
                name: "unembed".to_owned(),
                x: self.logits,
            },
        ]
    }
}

#[test]
fn a_program_that_fits_is_recorded_as_it_was_given() {
    let mut setup = setup();
    let ops = setup.rest();
    for op in &ops {
        setup.recorder.push(op.clone()).unwrap();
    }
    let program = setup.recorder.finish().unwrap();
    assert_eq!(program.ops[1..], ops);
    assert_eq!(program.vocab_size, 11);
    assert_eq!(program.kv_groups[0].num_layers, 1);
}

#[test]
fn leaving_out_any_op_but_the_optional_ones_is_noticed() {
    let count = setup().rest().len();
    for left_out in 0..count {
        let mut setup = setup();
        let ops = setup.rest();
        let kind = ops[left_out].kind();
        let mut ops = ops.into_iter().enumerate();
        let result = ops
            .try_for_each(|(index, op)| {
                if index == left_out {
                    Ok(())
                } else {
                    setup.recorder.push(op)
                }
            })
            .and_then(|()| setup.recorder.finish());
        let optional = matches!(kind, "rope" | "add" | "act_and_mul" | "capture");
        assert_eq!(result.is_ok(), optional, "without {kind}: {result:?}");
    }
}

#[test]
fn every_width_that_is_off_by_one_is_refused() {
    // Buffers by the name under which `rest` uses them; each is made one element narrower in turn.
    for name in ["hidden", "qkv", "heads", "sampled", "logits"] {
        let narrow = |wanted: &str, width: usize| if wanted == name { width - 1 } else { width };
        let mut recorder = ProgramRecorder::new();
        let mut buffer = |wanted: &str, rows, width| {
            recorder
                .buffer(wanted, rows, narrow(wanted, width))
                .unwrap()
        };
        let hidden = buffer("hidden", Rows::Tokens, 8);
        let qkv = buffer("qkv", Rows::Tokens, 16);
        let heads = buffer("heads", Rows::Tokens, 8);
        let sampled = buffer("sampled", Rows::Sampled, 8);
        let logits = buffer("logits", Rows::Sampled, 11);
        let mut setup = Setup {
            embed: recorder.weight("embed", &[11, 8]).unwrap(),
            norm: recorder.weight("norm", &[4]).unwrap(),
            rope: recorder.rope(vec![1.0, 0.5], 1.0).unwrap(),
            kv: recorder.kv_layer(1, 4, 4, None, false).unwrap(),
            recorder,
            hidden,
            qkv,
            heads,
            sampled,
            logits,
        };
        let (weight, scale) = (setup.embed, 1.0);
        let mut ops = vec![Op::Embedding {
            weight,
            scale,
            out: hidden,
        }];
        ops.extend(setup.rest());
        let error = ops
            .into_iter()
            .try_for_each(|op| setup.recorder.push(op))
            .unwrap_err();
        assert!(
            matches!(&error, RecordError::Width { buffer, .. } if buffer == name),
            "{name}: {error}"
        );
    }
}

#[test]
fn rows_that_count_something_else_are_refused() {
    let mut setup = setup();
    let error = setup.recorder.push(Op::GatherRows {
        x: setup.hidden,
        out: setup.heads,
    });
    assert_eq!(
        error,
        Err(RecordError::WrongRows {
            op: "gather_rows",
            buffer: "heads".to_owned(),
            found: Rows::Tokens,
            expected: Rows::Sampled,
        })
    );
}

#[test]
fn slices_beyond_their_row_are_refused_without_overflow() {
    let mut setup = setup();
    for (start, num_heads) in [(1, 2), (0, 3), (usize::MAX, 1), (1, usize::MAX)] {
        let error = setup
            .recorder
            .push(Op::Rope {
                x: setup.hidden,
                start,
                num_heads,
                head_dim: 4,
                rope: setup.rope,
            })
            .unwrap_err();
        assert!(matches!(error, RecordError::BeyondRow { .. }), "{error}");
    }
}

#[test]
fn ids_of_nothing_are_refused() {
    let mut setup = setup();
    let (x, out) = (setup.hidden, setup.heads);
    let nowhere = KvLayer { group: 0, layer: 1 };
    let ops = [
        Op::Add {
            a: x,
            b: BufferId(99),
            out,
        },
        Op::Linear {
            x,
            weight: WeightId(99),
            bias: None,
            out,
        },
        Op::Rope {
            x,
            start: 0,
            num_heads: 1,
            head_dim: 4,
            rope: RopeId(9),
        },
        Op::StoreKv {
            x,
            k_start: 0,
            v_start: 4,
            kv: nowhere,
        },
    ];
    for op in ops {
        let error = setup.recorder.push(op).unwrap_err();
        assert!(matches!(error, RecordError::UnknownId { .. }), "{error}");
    }
}

#[test]
fn a_layer_is_stored_once() {
    let mut setup = setup();
    let store = Op::StoreKv {
        x: setup.hidden,
        k_start: 0,
        v_start: 4,
        kv: setup.kv,
    };
    setup.recorder.push(store.clone()).unwrap();
    let error = setup.recorder.push(store).unwrap_err();
    assert!(matches!(error, RecordError::KvOrder { .. }), "{error}");
}

#[test]
fn a_linear_cannot_write_to_its_input() {
    let mut setup = setup();
    let weight = setup.recorder.weight("square", &[8, 8]).unwrap();
    let error = setup.recorder.push(Op::Linear {
        x: setup.hidden,
        weight,
        bias: None,
        out: setup.hidden,
    });
    let buffer = "hidden".to_owned();
    assert_eq!(
        error,
        Err(RecordError::InPlace {
            op: "linear",
            buffer
        })
    );
}

#[test]
fn a_refused_op_leaves_the_program_as_it_was() {
    let mut setup = setup();
    let before = format!("{:?}", setup.recorder);
    setup
        .recorder
        .push(Op::Capture {
            name: "early".to_owned(),
            x: setup.logits,
        })
        .unwrap_err();
    assert_eq!(format!("{:?}", setup.recorder), before);
}

#[test]
fn equal_rotary_tables_are_one() {
    let mut recorder = ProgramRecorder::new();
    let first = recorder.rope(vec![1.0], 1.0).unwrap();
    assert_eq!(recorder.rope(vec![1.0], 1.0).unwrap(), first);
    assert_ne!(recorder.rope(vec![1.0], 1.5).unwrap(), first);
}

#[test]
fn layers_are_grouped_by_dimensions_and_window() {
    let mut recorder = ProgramRecorder::new();
    let mut layer = |heads, window| recorder.kv_layer(heads, 4, 4, window, false).unwrap();
    let places = [
        layer(2, None),
        layer(2, Some(8)),
        layer(2, None),
        layer(1, None),
    ];
    let places = places.map(|kv| (kv.group, kv.layer));
    assert_eq!(places, [(0, 0), (1, 0), (0, 1), (2, 0)]);
}

#[test]
fn an_encoder_is_a_program_without_logits() {
    let mut recorder = ProgramRecorder::new();
    let hidden = recorder.buffer("hidden", Rows::Tokens, 8).unwrap();
    let pooled = recorder.buffer("pooled", Rows::Sequences, 8).unwrap();
    let words = recorder.weight("words", &[20, 8]).unwrap();
    let segments = recorder.weight("segments", &[2, 8]).unwrap();
    let push = |recorder: &mut ProgramRecorder, op| recorder.push(op).unwrap();
    push(
        &mut recorder,
        Op::SegmentEmbedding {
            weight: segments,
            out: hidden,
        },
    );
    push(
        &mut recorder,
        Op::Embedding {
            weight: words,
            scale: 1.0,
            out: hidden,
        },
    );
    let pool = |x, out| Op::Pool {
        x,
        row: PooledRow::First,
        out,
    };
    assert!(matches!(
        recorder.push(pool(hidden, hidden)),
        Err(RecordError::WrongRows { .. })
    ));
    push(&mut recorder, pool(hidden, pooled));
    assert!(matches!(
        recorder.clone().finish(),
        Err(RecordError::LmHeads { found: 0 })
    ));
    for (name, x) in [("states", hidden), ("vector", pooled)] {
        let name = name.to_owned();
        push(&mut recorder, Op::Capture { name, x });
    }
    let program = recorder.finish().unwrap();
    assert_eq!(program.vocab_size, 20);
    assert!(!program.has_lm_head() && !program.is_bidirectional());
    assert_eq!(
        program.captures().collect::<Vec<_>>(),
        [("states", hidden), ("vector", pooled)]
    );
    assert!(program.to_string().contains("pooled = pool(hidden, first)"));
}

#[test]
fn directions_are_not_mixed_and_an_encoder_has_no_logits() {
    let layers = |directions: &[bool]| {
        let mut recorder = ProgramRecorder::new();
        let x = recorder.buffer("x", Rows::Tokens, 12).unwrap();
        let weight = recorder.weight("words", &[20, 12]).unwrap();
        let embedding = Op::Embedding {
            weight,
            scale: 1.0,
            out: x,
        };
        recorder.push(embedding).unwrap();
        for &bidirectional in directions {
            let kv = recorder.kv_layer(1, 4, 4, None, bidirectional).unwrap();
            let store = Op::StoreKv {
                x,
                k_start: 4,
                v_start: 8,
                kv,
            };
            recorder.push(store).unwrap();
        }
        let name = "x".to_owned();
        recorder.push(Op::Capture { name, x }).unwrap();
        recorder
    };
    let both = layers(&[true, true]).finish().unwrap();
    assert!(both.is_bidirectional());
    assert!(both.to_string().contains("bidirectional"));
    assert!(matches!(
        layers(&[true, false]).finish(),
        Err(RecordError::InvalidValue { .. })
    ));
}
