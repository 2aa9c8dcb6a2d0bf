"""What each code of an assumption or a warning means, for ``lmsize explain``.

Codes are stable. Every code in the package stands here; a test compares them.
"""

from __future__ import annotations

CODES: dict[str, str] = {
    # -- about the model -----------------------------------------------------------------------
    "config-default": "The config leaves out keys, and transformers' class defaults stand in for "
    "them. Width, depth, heads and vocabulary are never filled in this way.",
    "unknown-model-type": "The config's model_type is not known. It has the usual keys, so it is "
    "read as a Llama-like decoder; biases, norms and other details may differ.",
    "unknown-architecture": "The class named in the config is not known for its family: the "
    "family's usual class is counted.",
    "no-transformers-class": "No class of transformers builds this model: it is counted from the "
    "keys of its config.",
    "vocabulary": "The config does not state the vocabulary; it is taken from the paper.",
    "text-model-only": "The wrapper's type is not known: its text model alone is counted.",
    "vision-tower": "The vision tower's type is not known: it is not counted.",
    "audio-input": "Input tokens are frames of audio.",
    "experts-per-token": "The config asks for more experts a token than there are: all are used.",
    "uneven-heads": "Key-value heads do not divide the query heads: counted as stated.",
    "stored-quantised": "The config says that the checkpoint's weights are stored in few bits. What a run holds them "
    "in is asked by --precision and --quant all the same.",
    "sparse-attention": "Indexed or compressed attention is counted as if every token attended to "
    "all tokens (or entries) before it.",
    "model-variant": "The Hub id is a tuned variant of a model in the catalogue and is taken to "
    "have its architecture.",
    "beyond-max-positions": "The sequence is longer than the model was made for.",
    # -- about the accelerator --------------------------------------------------------------------
    "accelerator-variant": "The name fits several accelerators. The SXM form of the size said is "
    "taken, else the largest.",
    "accelerator-capacity": "What the driver reports for this accelerator is not known; its "
    "capacity follows from the printed size by a rule.",
    "peak-fallback": "The accelerator has no units for the type; the peak of the next wider type "
    "that it has is used.",
    "unsupported-precision": "The accelerator has no units for the type: the run is emulated or "
    "does not start.",
    # -- about the question -------------------------------------------------------------------------
    "default-*": "The option was not given; this is its default.",
    "peft-defaults": "Adapters are made as the stack makes them when nothing is said: their type and dropout.",
    "precision-rows": "In the comparison of precisions under the rules of thumb, optimizer states "
    "take the weights' type, and activations given are those in 16 bits: twice as much in fp32.",
    # -- about ranges ------------------------------------------------------------------------------
    "range-measured": "The 90 % range comes from published measurements of this stack and method.",
    "range-pooled": "This stack or method was measured too seldom: the range comes from a wider "
    "group of measurements, and is wider.",
    "range-serving": "The 90 % range comes from published measurements of serving by any engine: "
    "which one will serve is not asked for.",
    "calibrated": "Measurements of your own correct this estimate: `lmsize calibrate` found the factor, and "
    "`--calibration none` leaves it out.",
    # -- about a row of measurements, put as a question ---------------------------------------------
    "row-framework": "The row's framework is taken for the nearest stack that is modelled.",
    "row-method": "The row states no method.",
    "row-targets": "The row's LoRA targets are no known modules: every linear is adapted.",
    "row-version": "The name of the row's source says of when it is; the framework of then is asked about.",
    "row-stages": "Layers do not divide evenly over the stages, and the row does not say how they lie: as the "
    "framework's launch scripts have it.",
    "row-pipeline-batch": "The framework cuts a rank's batch into micro-batches for its pipeline, and the row "
    "does not say how many: one a stage.",
    "row-layers-split": "Layers split over accelerators (device_map) are taken as pipeline stages.",
    "row-tensors-split": "Operators split over accelerators are taken as tensor parallelism.",
    "row-dp": "The row's dp does not make its number of accelerators with the other degrees.",
    "row-devices": "The row's configuration launches fewer accelerators than its machine had.",
    "row-etp": "The row's ep only makes sense with experts that tensor parallelism leaves whole.",
    "row-vp": "The row's virtual stages do not divide its layers evenly: they are left out.",
    "row-hsdp": "Hybrid sharding is taken as sharding over every rank.",
    "row-sharding": "The row states no sharding: the framework's usual one is taken.",
    "row-micro-batch": "The row states no micro-batch: 1 is taken.",
    "row-global-batch": "The row's global batch is no multiple of micro-batch and dp.",
    "row-precision": "The row states no precision: bf16 is taken, or the serving engine's usual.",
    "row-fp4": "Arithmetic in 4 bits is taken as fp8.",
    "row-autocast": "The row serves under autocast: weights are fp32, and their 16-bit copies are not "
    "counted.",
    "row-int8": "Arithmetic in int8 is taken as the 16-bit type's.",
    "row-engine": "The row's serving engine is not known: taken as most servers are.",
    "row-kv-precision": "The row states no type of the cache: that of attention is taken.",
    "row-ep": "The row spreads experts over ranks that lmsize infer divides them over by tp.",
    "row-batch": "The row states no batch: one sequence is taken.",
    "row-prompt": "The row states no length of the prompt: the engine's benchmark's usual, or one "
    "token where only an output is stated.",
    "row-output": "The row states no length of the output: the engine's benchmark's usual.",
    "row-lengths": "The row states no lengths of prompts or outputs: those of lmsize infer.",
    "row-16bit": "The row names a 16-bit type but not how it is used: as the framework usually does.",
    "row-optimizer": "The row states no optimizer: the framework's usual one is taken.",
    "row-attention": "The row states no attention kernel that is known: the framework's usual one.",
    "row-recompute": "The row states no recomputation that is known: the framework's usual one.",
    "row-dropout": "The row states no rate of dropout: the framework's default.",
    "row-heads": "The row states no number of heads: one of the usual width is taken.",
    "row-vocabulary": "The row states no vocabulary: the family's usual one is taken.",
    "row-layers": "The row states no number of layers: as many as make its parameters.",
    "row-parameters": "The parameters as read are more than a tenth off the stated ones.",
    # -- about memory ---------------------------------------------------------------------------------
    "stack-model": "The stack has no code of its own for this type of model: something more general runs it, or it "
    "has to be written first. It is estimated as the stack writes its own.",
    "recurrence-in-torch": "transformers runs recurrent layers in plain torch unless packages of kernels "
    "(mamba-ssm, causal-conv1d, flash-linear-attention) are installed, and so they are estimated. Plain torch keeps "
    "every state, or every pair of tokens in a chunk: kernels keep far less.",
    "activations-by-parts": "A layer whose code lmsize has no program for: its parts are taken one "
    "after the other, each fed by what fits it, and a recurrence as one kernel.",
    "activations-textbook": "Activations follow the published formula for a standard layer "
    "(Korthikanti et al. 2022), as --activation-bytes textbook asks of the rules of thumb.",
    "activations-missing": "No figure for activations was given, so the total is without them.",
    "reserved-varied": "Where batches differ in length, segments that were taken for other lengths stay. How "
    "much of them is a typical figure of published runs.",
    "kbit-preparation": "What quantisation leaves alone is kept in the stack's type for it: fp32 where "
    "prepare_model_for_kbit_training of peft raises it.",
    "experts-quantised": "Routed experts are quantised like linears. transformers 5 fuses experts "
    "into one tensor, which bitsandbytes does not replace.",
    "linears-left": "transformers quantises torch's own linears. A class whose linears are derived from "
    "them (Falcon) keeps its weights as they are.",
    "idle-towers": "A text run passes no token through vision or audio towers: they hold weights, "
    "but get no gradients and no optimizer states.",
    "ddp-buckets": "torch's DistributedDataParallel copies gradients into buckets to reduce them, "
    "unless gradient_as_bucket_view is set.",
    "paged-states": "Paged optimizer states lie in managed memory, which moves to the host under "
    "pressure: they are not counted on the accelerator.",
    "zero3-gather": "ZeRO-3 holds one block whole at a time: its weights, and its gradients before "
    "they are scattered. Prefetching more would hold more.",
    "tied-head-copy": "A pipeline's last stage keeps a copy of its own of the tied embedding.",
    "reserved-typical": "The caching allocator reserves more than is live; the share is the median "
    "of published runs where both were measured.",
    "context-typical": "The driver's context and loaded kernels take memory that no tensor shows.",
    "communicators": "NCCL has buffers on the accelerator for every group of ranks that communicates: one for "
    "each protocol, channel and connection. So it is with NCCL that connects when it is initialised (before "
    "2.22); later ones connect when a collective is first called, and hold less until then.",
    "step-segments": "The optimizer's step makes flat copies of gradients, larger than any block that "
    "activations leave: torch's allocator keeps segments for them beside those of the backward, and gives "
    "them back where the accelerator has no room.",
    "stream-segments": "FSDP2 gathers and reduces on streams of its own. torch's allocator keeps their blocks "
    "apart, so that what it holds is the sum of each stream's fullest instant.",
    "reserved-expandable": "The stack's launcher asks for expandable segments, which have next to no slack.",
    "reserved-simulated": "What is reserved comes from a simulation of PyTorch's caching allocator on "
    "the step's requests.",
    "trace-step": "The real model, optimizer and adapters ran two steps on fake tensors; the second "
    "counts. On an accelerator kernels' own scratch and libraries' workspaces are not seen; a typical context "
    "and NCCL's buffers, as computed, are added to the driver's figure. Kernels of the CPU are run once on "
    "zeros, and say what they take.",
    "trace-capability": "The accelerator's compute capability is not known or none was named; "
    "attention kernels are chosen as on an 8.0.",
    "trace-optimizer-impl": "The implementation of the optimizer was not said: it is the one that "
    "torch chooses on the device.",
    "trace-micro-batches": "Of a step's micro-batches two are traced, and the last where it alone reduces "
    "gradients; the others do as the second.",
    "trace-sequences": "Attention runs without a mask only where no sequence is padded and none are packed into a "
    "row. A mask rules the flash kernel out, and is held whole, for every layer where a kernel adds it up.",
    "trace-reduced-last": "FSDP2 reduces gradients with the last micro-batch, as accelerate and the Trainer of "
    "transformers do unless sync_each_batch is set: until then they add up whole on every rank.",
    "trace-replicated": "Like layers are traced a few times and their events repeated; that this gives "
    "the whole model's is checked on each model by leaving one layer out.",
    "trace-spread-evenly": "Shapes depend on which expert each token goes to: tokens are spread evenly "
    "over the experts.",
    "trace-nothing-left-out": "The model leaves layers out at random now and then (layerdrop): the trace leaves out "
    "none, as most steps do.",
    "trace-one-rank": "The first of the ranks is traced, which holds the most, with FSDP2 and tensor "
    "parallelism as torch and transformers do them; collectives' own buffers are not seen.",
    "trace-ddp": "One rank is traced as it is alone; DDP's buckets, gradients once more, are added by "
    "closed form.",
    "trace-eager-only": "The model's class of transformers runs eager attention alone, which is traced.",
    "missing-extra": "A row of a comparison needs software that is not installed here: it is left empty.",
    "trace-bitsandbytes": "Weights in few bits and optimizers of bitsandbytes are stood in for by what "
    "holds the same tensors and asks for the same temporaries: its kernels read values. A kernel that "
    "multiplies by packed weights is not taken: it serves short inputs only.",
    "trace-paged-states": "States of paged optimizers lie in managed memory, which moves to the host "
    "under pressure. Those of parameters under 100,000 numbers stay on the accelerator, and are counted.",
    "trace-scaled-limits": "Limits and the fewest accelerators come from the analytic engine, its "
    "memory scaled to meet the trace.",
    "prefill-chunk": "A server prefills long prompts in chunks, so working memory stops growing.",
    "min-to-fit-zero3": "The smallest number of accelerators is searched with ZeRO-3, which shards "
    "weights, gradients and states over them.",
    # -- about time and money ------------------------------------------------------------------------------
    "mfu-typical": "The step runs at the median MFU of published runs on the same family of "
    "accelerators and size of model.",
    "launch-bound": "Launching the step's kernels takes longer than running them, so the step takes as long as "
    "the launches: more work a launch (a larger micro-batch) costs nothing.",
    "mfu-group": "Too few published runs of this very kind: a wider group stands in.",
    "serving-typical": "Prefill and decoding run at typical shares of peak and bandwidth.",
    "linear-scaling": "Time falls in proportion to the number of accelerators.",
    "price": "The price of an accelerator-hour: a dated row of the catalogue.",
    "stale-price": "The price is more than 90 days old.",
    "energy-tdp": "Accelerators draw their board power throughout; the PUE is a survey's mean.",
    "carbon-grid": "The grid's yearly mean intensity.",
    "million-tokens": "Cost, energy and carbon of serving are those of a million output tokens.",
    "rules-of-thumb": "Parameters times bytes, and nothing else.",
    "default-efficiency": "The rule's 80 % of the peak, above anything measured on whole runs.",
    "default-adapter-fraction": "The rule's 2 % of the parameters.",
}


def meaning(code: str) -> str | None:
    """What a code means; None for an unknown one."""
    return CODES.get(code) or (CODES["default-*"] if code.startswith("default-") else None)
