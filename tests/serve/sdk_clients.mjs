// OpenAI's and Anthropic's JavaScript clients, from the folder in argv[2], against the address in argv[3]; prints what they got as JSON.
import { createRequire } from 'node:module'
const load = createRequire(process.argv[2] + '/')
const OpenAI = load('openai').default ?? load('openai')
const Anthropic = load('@anthropic-ai/sdk').default ?? load('@anthropic-ai/sdk')
const [root, group] = process.argv.slice(3)
const defaultHeaders = { 'x-engine': group }
const openai = new OpenAI({ baseURL: root + '/v1', apiKey: 'x', maxRetries: 0, defaultHeaders })
const anthropic = new Anthropic({ baseURL: root, apiKey: 'x', maxRetries: 0, defaultHeaders })
const model = 'phi-4-mini'
const city = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'], additionalProperties: false }
const question = 'What is the weather in Paris?'
const tools = [{ type: 'function', name: 'get_weather', description: 'The weather', parameters: city, strict: true }]

const chat = await openai.chat.completions.create({ model, messages: [{ role: 'user', content: 'Who are you?' }], temperature: 0 })
const whole = await openai.responses.create({ model, input: 'Who are you?', temperature: 0 })
const stream = openai.responses.stream({ model, input: 'Who are you?', temperature: 0 })
const types = []
for await (const event of stream) types.push(event.type)
const streamed = await stream.finalResponse()

const asked = await openai.responses.create({ model, input: question, tools, temperature: 0 })
const [call] = asked.output
const output = [{ type: 'function_call_output', call_id: call.call_id, output: '22 degrees' }]
const told = await openai.responses.create({ model, input: output, tools, previous_response_id: asked.id, temperature: 0 })
const format = { type: 'json_schema', name: 'place', strict: true, schema: city }
const formed = await openai.responses.create({ model, input: 'Paris is a city.', text: { format }, max_output_tokens: 60, temperature: 0 })

let response = await openai.responses.create({ model, input: 'My name is Ada.' })
for (const input of ['I like maths.', 'What is my name?'])
  response = await openai.responses.create({ model, input, previous_response_id: response.id, temperature: 0 })
const roles = []
for await (const item of openai.responses.inputItems.list(response.id)) roles.push(item.role)
let later = await openai.responses.create({ model, input: 'Who are you?', background: true, temperature: 0 })
while (later.status === 'in_progress') {
  await new Promise((done) => setTimeout(done, 100))
  later = await openai.responses.retrieve(later.id)
}
await openai.responses.delete(later.id)
const gone = await openai.responses.retrieve(later.id).catch((error) => error.status)

const messages = [{ role: 'user', content: question }]
const theirs = [{ name: 'get_weather', description: 'The weather', input_schema: city }]
const said = await anthropic.messages.create({ model, max_tokens: 60, messages: [{ role: 'user', content: 'Who are you?' }], temperature: 0 })
const final = await anthropic.messages
  .stream({ model, max_tokens: 60, messages: [{ role: 'user', content: 'Who are you?' }], temperature: 0 })
  .finalMessage()
const calling = await anthropic.messages.create({ model, max_tokens: 60, messages, tools: theirs, tool_choice: { type: 'any' }, temperature: 0 })
const use = calling.content.find((block) => block.type === 'tool_use')
const counted = await anthropic.messages.countTokens({ model, messages })
const refused = await openai.responses.create({ input: 'x' }).catch((error) => [error.status, error.param])

console.log(
  JSON.stringify({
    texts: [chat.choices[0].message.content, whole.output_text, streamed.output_text, said.content[0].text, final.content[0].text],
    types: [...new Set(types)],
    calls: [call.name, use.name],
    arguments: [JSON.parse(call.arguments), use.input],
    told: told.output_text,
    formed: formed.output_text,
    conversation: [response.output_text, roles],
    later: [later.status, later.output_text, gone],
    counted: counted.input_tokens,
    refused,
  }),
)
