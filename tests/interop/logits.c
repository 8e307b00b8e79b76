// What llama.cpp computes for tokens: logits MODEL OUT LENGTH TOKEN...
// The tokens are sequences of LENGTH. OUT gets one f32 row of logits per token, OUT.routes one line per token and layer with
// experts: token, layer, all experts from the likeliest down.
// F32 cache and no repacked weights, so that what differs is the arithmetic of the formats.
#include <ggml-backend.h>
#include <llama.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static FILE *routes;
static int first_token; // of the sequence that is computed

static void quiet(enum ggml_log_level level, const char *text, void *data) {
    (void)data;
    if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

static int fail(const char *what) {
    fprintf(stderr, "logits: %s\n", what);
    return 1;
}

static bool watch(struct ggml_tensor *tensor, bool ask, void *data) {
    static const char prefix[] = "ffn_moe_argsort-";
    (void)data;
    const bool wanted = strncmp(tensor->name, prefix, strlen(prefix)) == 0;
    if (ask || !wanted) return wanted || !ask;
    int32_t *experts = malloc(ggml_nbytes(tensor));
    ggml_backend_tensor_get(tensor, experts, 0, ggml_nbytes(tensor));
    for (int row = 0; row < tensor->ne[1]; row++) {
        fprintf(routes, "%d %s", first_token + row, tensor->name + strlen(prefix));
        for (int i = 0; i < tensor->ne[0]; i++) fprintf(routes, " %d", experts[row * tensor->ne[0] + i]);
        fprintf(routes, "\n");
    }
    free(experts);
    return true;
}

static int compute(struct llama_context *context, char **tokens, int count, size_t width, FILE *out) {
    struct llama_batch batch = llama_batch_init(count, 0, 1);
    batch.n_tokens = count;
    for (int i = 0; i < count; i++) {
        batch.token[i] = atoi(tokens[i]);
        batch.pos[i] = i;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = 1;
    }
    llama_memory_clear(llama_get_memory(context), true);
    int failed = llama_decode(context, batch);
    for (int i = 0; i < count && !failed; i++)
        failed = fwrite(llama_get_logits_ith(context, i), sizeof(float), width, out) != width;
    llama_batch_free(batch);
    return failed;
}

int main(int argc, char **argv) {
    if (argc < 5) return fail("usage: logits MODEL OUT LENGTH TOKEN...");
    llama_log_set(quiet, NULL);
    llama_backend_init();
    struct llama_model_params model_params = llama_model_default_params();
    model_params.use_extra_bufts = false;
    struct llama_model *model = llama_model_load_from_file(argv[1], model_params);
    if (!model) return fail("cannot load the model");

    const int length = atoi(argv[3]), count = argc - 4;
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = 256;
    params.n_batch = params.n_ubatch = length;
    params.n_threads = params.n_threads_batch = 2;
    params.type_k = params.type_v = GGML_TYPE_F32;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    params.cb_eval = watch;
    struct llama_context *context = llama_init_from_model(model, params);
    if (!context) return fail("cannot make a context");

    char path[4096];
    snprintf(path, sizeof path, "%s.routes", argv[2]);
    FILE *out = fopen(argv[2], "wb");
    routes = fopen(path, "w");
    if (!out || !routes) return fail("cannot write");
    const size_t width = llama_vocab_n_tokens(llama_model_get_vocab(model));
    for (first_token = 0; first_token + length <= count; first_token += length)
        if (compute(context, argv + 4 + first_token, length, width, out)) return fail("cannot compute");
    return fclose(out) || fclose(routes) ? fail("cannot write") : 0;
}
