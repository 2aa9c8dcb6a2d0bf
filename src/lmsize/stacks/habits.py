"""What differs between the classes of transformers 5.23 though their parameters do not tell.

Each set names the model types whose code is written so; the rest follow Llama's.
"""

from __future__ import annotations


def _named(types: str) -> frozenset[str]:
    """Those model types, and those of their text models where these have one of their own."""
    names = types.split()
    return frozenset((*names, *(f"{name}_text" for name in names)))


# RMSNorm multiplies by its weight in fp32 and casts last.
CASTS_LAST = _named(
    "afmoe beam deepseek_v4 flex_olmo flint gpt_oss inkling2 olmo2 olmo3 olmo_hybrid openai_privacy_filter"
)
# ... and casts its weight for that.
FP32_WEIGHT = _named(
    "diffusion_gemma embedding_gemma2 gemma3n gemma4 gemma4_unified helium muse_glimmer muse_spark "
    "neomme nemotron_h"
)
# ... and takes the root as a power, which saves what it takes it of.
POWER_ROOT = _named(
    "diffusion_gemma embedding_gemma2 gemma3n gemma4 gemma4_unified muse_glimmer muse_spark neomme"
)
# RMSNorm scales by one plus its weight, in fp32.
ONE_PLUS = _named(
    "gemma gemma2 gemma3 minimax_m3_vl muse_glimmer muse_spark qwen3_5 qwen3_5_moe "
    "qwen3_next qwen4_exp recurrent_gemma step3p7 t5gemma t5gemma2 vaultgemma"
)
# RMSNorm scales the stream itself, not its fp32 copy.
T5_NORM = _named("t5 mt5 umt5 longt5 switch_transformers pop2piano udop")
# LayerNorm without a bias, written out in fp32.
CENTRED = _named("cohere cohere2 cohere2_moe")
# Queries and keys go to fp32 before they are turned.
RAISES_QUERIES = CENTRED | _named("qwen qwen2_vl qwen2_5_vl")
# Rotary positions are computed in fp32 and cast back.
FP32_ROTARY = _named(
    "beam cohere cohere2 cohere2_moe ernie4_5 ernie4_5_moe esm exaone4_5 flex_olmo glm4v glm4v_moe olmo olmo2 "
    "olmo3 olmo_hybrid qwen qwen2_vl qwen2_5_vl qwen3_5 qwen3_5_moe qwen3_vl qwen3_vl_moe"
)
# ... of which each half of the sum has an fp32 copy of its own.
RAISES_TWICE = _named("esm")
# Queries are scaled before they are turned; their scores by one, or not at all.
SCALES_QUERIES = _named("esm xglm")
LEAVES_SCORES = _named("xglm")
# Masked scores are bounded by the least number of their type.
BOUNDS_SCORES = _named("xglm")
# Rotary positions are a complex product in fp32, cast back.
COMPLEX_ROTARY = _named("deepseek_v2 llama4")
# Embeddings are multiplied by a constant outside of their module, which lets go of the first form.
SCALES_OUTSIDE = _named(
    "falcon_h1 granite granite_docling granite_swa granitemoe granitemoe_swa granitemoehybrid "
    "granitemoeshared hyperclovax recurrent_gemma t5gemma"
)
# The layer names what its first norm and its attention gave until it ends.
NAMES_BRANCH = _named("openai-gpt stablelm")
# ... or what its attention gave, before it is dropped out.
NAMES_PROJECTION = _named("gte jina_embeddings_v3 new nomic_bert")
# ... or what its attention gave alone.
NAMES_ATTENTION = _named("modernbert")
# Rotary positions turn a slice of each head, which is then put together with the rest.
SLICED_ROTARY = _named(
    "bamba codegen glm glm4 glm4_moe glm4v gpt_neox mimo_v2_flash gpt_neox_japanese gptj minimax_m2 minimax_m3_vl moonshine "
    "nemotron persimmon phi phi3 phi4_multimodal qwen3_5 qwen3_5_moe qwen3_next stablelm"
)
# Eager attention takes its softmax in the type of the scores.
OWN_SOFTMAX = _named(
    "albert bart bert bert-generation bigbird_pegasus biogpt blenderbot blenderbot-small bros "
    "camembert codegen ctrl data2vec-text deberta deberta-v2 distilbert electra ernie esm esmc "
    "flaubert fsmt gpt-sw3 gpt2 gpt_bigcode gpt_neo gte ibert imagegpt jina_embeddings_v3 luke m2m_100 "
    "marian mbart megatron-bert mobilebert mpnet mvp new nllb-moe nomic_bert nystromformer "
    "openai-gpt pegasus pegasus_x plbart rembert roberta roberta-prelayernorm roc_bert roformer "
    "squeezebert xglm xlm xlm-roberta xlm-roberta-xl xmod "
    "t5 mt5 umt5 longt5 switch_transformers pop2piano udop deepseek_v4 gpt_oss hy_v4 mimo_v2_flash"
)
# Queries and keys are turned before their norms.
TURNS_FIRST = _named("hunyuan_v1_dense hunyuan_v1_moe hunyuan_vl llama4 nanochat")
# Positions turn queries and keys of windows alone.
TURNS_WINDOWS = _named("afmoe cohere2 cohere2_moe")
# The gate of what attention gives is projected last: a softplus in fp32.
GATES_LAST = _named("laguna")
# What attention gives is scaled by how much of each row a learned sink of its head leaves.
SINK_SCALES = _named("granite_swa granitemoe_swa")
# Shared experts run before the routed ones.
SHARED_FIRST = _named(
    "afmoe ernie4_5_moe hunyuan_v1_moe laguna minimax_m3_vl qwen2_moe qwen3_5_moe qwen3_next "
    "qwen3_omni_moe qwen4_exp step3p7"
)
# Every expert takes every token, scaled by its score, of which all but the highest are nothing.
DENSE_EXPERTS = _named("llama4")
# Gates and other halves of routed experts, not of shared ones, are clamped.
LIMITS_EXPERTS = _named("hy_v4")
# A learned sink of each head stands beside the scores of every row.
SINKS = _named("deepseek_v4 gpt_oss hy_v4")
# ... or of those that see a window.
WINDOW_SINKS = _named("mimo_v2_flash")
# ... and casts the result to the type of the values.
CASTS_PROBABILITIES = _named(
    "deepseek_v4 hy_v4 mimo_v2_flash gpt_oss gpt2 gpt-sw3 gpt_bigcode imagegpt"
)
# Scores are masked by a product with a buffer and a sum.
MASKS_BY_PRODUCT = _named("openai-gpt")
# The model names what it looked up until it returns, beside the sum of it or what dropout leaves.
NAMES_EMBEDDINGS = _named("bloom codegen gpt2 gpt_neo gpt_neox gptj opt phi")
# The layer names what its attention gave, dropped out, until it ends.
NAMES_OUTPUT = _named("gpt2 mpt")
# Branches side by side are added to the stream one after the other, not to each other first.
ADDS_TO_STREAM = _named("cohere cohere2 cohere2_moe stablelm")
# The second of two branches side by side is added to in place.
ADDS_IN_PLACE = _named("falcon RefinedWeb RefinedWebModel")
# A branch's projection back, dropout and norm are a module apart, whose caller names what it reads.
OUTPUT_APART = _named(
    "bert bert-generation bros camembert data2vec-text deberta deberta-v2 electra ernie esm layoutlm "
    "luke megatron-bert mpnet nystromformer rembert roberta roberta-prelayernorm roc_bert roformer "
    "xlm-roberta xlm-roberta-xl xmod"
)
# What these add to the stream does not drop out.
UNDROPPED = {"attention": _named("distilbert"), "mlp": _named("albert xlm-roberta-xl")}
# The sum is written where the norm is called, so that its terms have names until that is done.
SUMS_IN_CALL = OUTPUT_APART | _named("albert distilbert openai-gpt")
# Norms of branches side by side are all taken before the first branch.
NORMS_FIRST = _named("falcon RefinedWeb RefinedWebModel")
# Linears of a class of their own, derived from torch's: transformers does not quantise those, and
# autocast casts their transposed weights each time.
DERIVED_LINEARS = _named("falcon RefinedWeb RefinedWebModel")
# A mask is made whatever the kernel.
ALWAYS_MASKED = _named("deepseek_v32 falcon glm_moe_dsa RefinedWeb RefinedWebModel")
# A mask of booleans fills scores, each layer of which saves it.
FILLS_SCORES = _named("mpt")
# Embeddings are not dropped out, whatever the config says.
KEEPS_EMBEDDINGS = _named("esm")
# Layers written in a way that no program here follows: their parts are taken one by one.
OWN_LAYERS = _named("beam cpmant mra neomme yoso")
# The MLP is written in the layer's own code, where each tensor takes the name of the one before.
INLINE_MLP = _named(
    "bigbird_pegasus biogpt blenderbot m2m_100 mbart nllb-moe opt pegasus pegasus_x "
    "roberta-prelayernorm xglm xlm-roberta-xl"
)
# Attention returns its probabilities as they were before they were dropped out.
RETURNS_WHOLE = _named("xglm")
# ... or keeps them to itself: they go with the module of attention and its output.
ENDS_WITH_PROBABILITIES = _named("bros esm layoutlm")
# What a branch adds to the stream is scaled first.
SCALES_BRANCHES = _named(
    "esmc granite granite_docling granite_swa granitemoe granitemoe_swa granitemoehybrid "
    "granitemoeshared hyperclovax"
)
# LayerNorm gives back the type that it got.
CASTS_LAYER_NORM = _named("esmc")
# The bias of the last projection is a parameter of its own, and a sum of its own.
BIAS_APART = _named("esm")
# A buffer is added to the logits: in fp32 under autocast, which makes them so.
LOGITS_BIAS = _named(
    "bart bigbird_pegasus blenderbot blenderbot-small led marian mbart mvp pegasus plbart"
)
# The router reads the stream in fp32.
FP32_ROUTER = _named(
    "axk1 axk2 bailing_hybrid beam deepseek_ocr2 deepseek_v2 deepseek_v3 deepseek_v32 dots1 dots3_note "
    "ernie4_5_moe ernie4_5_vl_moe exaone_moe flint glm4_moe glm4_moe_lite glm4v_moe glm5_next "
    "glm_moe_dsa hy_v3 hy_v4 inkling kimi_k2 kimi_linear kolibri1 mimo_v2_flash minimax_m2 "
    "mistral_large4 muse_spark nemotron_h solar_open unlimited_ocr"
)
# Masked language models whose loss takes logits to fp32 all the same.
RAISES_LOGITS = _named("esmc eurobert modernbert neomme ultrabert")
# Scores get a learned bias of relative positions, which fused attention takes as a mask and saves.
POSITION_BIAS = T5_NORM
# Tensor-parallel ranks gather queries, keys and values (norms over all heads, one product for the
# three), or the halves of the gate, and divide again before the projection back.
MEETS_IN_ATTENTION = _named(
    "flex_olmo minimax_m2 olmo2 olmo3 olmo_hybrid olmoe phi3 phi4_multimodal step3p7"
)
MEETS_IN_MLP = _named("glm glm4 glm4v phi3 phi4_multimodal")
# Embeddings are a module that is not to be split (`_no_split_modules`), so a unit of FSDP's own.
EMBEDDINGS_APART = _named(
    "bert camembert data2vec-text esm gte jina_embeddings_v3 modernbert nomic_bert roberta xlm-roberta "
    "xlm-roberta-xl"
)
# Classes without fused attention (`_supports_sdpa`).
EAGER_ONLY = _named(
    "big_bird bigbird_pegasus bloom codegen convbert cpmant deberta deberta-v2 deepseek_v4 flaubert flint fsmt "
    "funnel gemma2 gpt_neo gpt_neox_japanese gpt_oss gptj granite_swa granitemoe_swa hy_v4 ibert inkling2_text led "
    "longformer longt5 luke megatron-bert mimo_v2_flash mpnet mpt mra mvp nllb-moe nystromformer openai-gpt "
    "pegasus_x prophetnet rembert roformer squeezebert switch_transformers t5gemma tapas trocr vaultgemma xglm "
    "xlm xlnet yoso"
)
# The weights of chosen experts are cast to the type of the router's output.
CASTS_WEIGHTS = _named(
    "flex_olmo mellum olmoe qwen2_moe qwen3_5_moe qwen3_5_moe_text qwen3_moe qwen3_next qwen3_omni_moe "
    "qwen3_vl_moe qwen4_exp"
)
